#!/bin/sh
# The command line of Node.js for bun: what bun does not do under the name `node` is done here.
bun=/usr/local/lib/fumehood/node
case ${1-} in
    -v | --version) exec "$bun" -p process.version ;;
    -c | --check) exec bun build --no-bundle "${2:?node: --check needs a file}" >/dev/null ;;
    -h | --help)
        echo "node is provided by bun $(bun --version): node [FLAGS] [FILE | -e CODE | -p CODE | -] [ARGUMENTS]"
        exit
        ;;
    '') [ -t 0 ] && exec bun repl || exec bun run --no-install - ;;
    -) shift && exec bun run --no-install - "$@" ;;
esac
# As in Node.js, a package that is missing is an error.
exec "$bun" --no-install "$@"

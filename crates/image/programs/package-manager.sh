#!/bin/bash
# pip, npm and npx, by uv and bun. The name of the command selects what it does.
name=${0##*/}

# Prints why nothing can be downloaded here, and what to do instead; fails.
no_network() {
    local language=$1 spec=$2
    cat >&2 <<END
$name: cannot download packages: this VM has no network.
Give the packages to fumehood instead, which installs them before the program starts: fumehood run -p '$spec' ...
Or give the VM a network that reaches the package index: fumehood run --allow index:$language ...
END
    exit 1
}

# Prints what to do after a failed download; fails with the status of the package manager.
failed() {
    local status=$1 language=$2
    if has_network; then
        echo "$name: if the index cannot be reached, allow it: fumehood run --allow index:$language ..." >&2
    fi
    exit "$status"
}

# Returns whether there is a network card.
has_network() {
    local card
    for card in /sys/class/net/*; do
        [[ $card == */lo || ! -e $card ]] || return 0
    done
    return 1
}

pip() {
    local command=${1-} site spec='' word target=1 args=()
    site=$(python3 -c 'import site; print(site.getusersitepackages())') || exit
    shift
    case $command in
        -V | --version | -v) echo "pip is provided by $(uv --version)"; exit ;;
        '' | -h | --help | help) echo "usage: pip install|uninstall|list|freeze|show ... (by uv pip)"; exit ;;
        install | uninstall) ;;
        list | show) exec uv pip "$command" --target "$site" "$@" ;;
        freeze) exec uv pip list --target "$site" --format freeze "$@" ;;
        *) echo "pip: \`$command\` is not supported here; use uv, or: pip install|uninstall|list|freeze|show" >&2; exit 2 ;;
    esac

    # Options that uv does not have, and that change nothing here.
    while (($#)); do
        word=$1
        shift
        case $word in
            --user | --no-warn-script-location | --no-input | --disable-pip-version-check | --no-python-version-warning | -y | --yes) ;;
            --root-user-action=* | --progress-bar=* | --timeout=* | --retries=*) ;;
            --root-user-action | --progress-bar | --timeout | --retries | --default-timeout) shift ;;
            -t | --target | --prefix | --target=* | --prefix=*) target=; args+=("$word") ;;
            -*) args+=("$word") ;;
            *) spec=${spec:-$word}; args+=("$word") ;;
        esac
    done

    if [[ $command == uninstall ]]; then
        exec uv pip uninstall --system --target "$site" "${args[@]}"
    fi

    # Programs of packages go to a directory in PATH.
    if [[ $target ]]; then
        mkdir -p "$HOME/.local/bin" "$site" || exit
        [[ -e $site/bin ]] || ln -s ../../../bin "$site/bin"
        args=(--target "$site" "${args[@]}")
    fi

    # Without a network, what is installed already is enough.
    if ! has_network; then
        uv pip install --system --quiet --offline --no-progress "${args[@]}" 2>/dev/null && exit
        [[ $spec == [A-Za-z0-9]* && $spec != */* ]] || spec=NAME==VERSION
        no_network python "$spec"
    fi

    # With a cache, the downloads would be in memory twice.
    uv pip install --system --no-progress --no-cache "${args[@]}" || failed $? python
}

npm() {
    local command=${1-} spec='' word args=() code=0
    shift
    case $command in
        -v | --version | version) echo "npm is provided by bun $(bun --version)"; exit ;;
        '' | -h | --help | help)
            echo "usage: npm install|ci|uninstall|update|run|test|start|exec|ls|init ... (by bun)"; exit ;;
        i | install | add) command=install ;;
        ci | clean-install) command=ci ;;
        un | uninstall | rm | remove | r) exec bun remove "$@" ;;
        up | update | upgrade) command=update ;;
        run | run-script) exec bun run "$@" ;;
        test | t | start | stop | restart) exec bun run "${command/#t/test}" "$@" ;;
        x | exec) [[ ${1-} == -- ]] && shift; name='npm exec'; npx "$@" ;;
        ls | list | ll) exec bun pm ls "$@" ;;
        init | create)
            [[ -e package.json ]] && { echo "npm: package.json exists" >&2; exit 1; }
            printf '{\n  "name": "%s",\n  "version": "1.0.0"\n}\n' "$(basename "$PWD" | tr -cd 'a-z0-9._-')" >package.json
            exit
            ;;
        root) echo "$PWD/node_modules"; exit ;;
        *) echo "npm: \`$command\` is not supported here: npm is provided by bun; see \`bun --help\`" >&2; exit 2 ;;
    esac

    # Options with another name or none in bun.
    for word in "$@"; do
        case $word in
            -D | --save-dev) args+=(--dev) ;;
            -E | --save-exact) args+=(--exact) ;;
            -O | --save-optional) args+=(--optional) ;;
            --production | --omit=dev | --only=production) args+=(--production) ;;
            -S | --save | -P | --save-prod | --no-audit | --no-fund | --legacy-peer-deps | --audit=* | --fund=* | --loglevel=* | -y | --yes | --no-progress) ;;
            -*) args+=("$word") ;;
            *) spec=${spec:-$word}; args+=("$word") ;;
        esac
    done

    if ! has_network; then
        [[ $spec == ?*@* || ! $spec ]] || spec+=@latest
        no_network javascript "${spec:-NAME@VERSION}"
    fi

    # Programs of global packages go to a directory in PATH.
    export BUN_INSTALL_BIN=$HOME/.local/bin
    case $command in
        install) [[ $spec ]] && command=add ;;
        ci) command=install; args+=(--frozen-lockfile) ;;
    esac
    bun "$command" --no-progress "${args[@]}" || failed $? javascript
}

npx() {
    local args=() program
    while [[ ${1-} == -* ]]; do
        case $1 in
            -y | --yes | -q | --quiet | --no-install | --no) shift ;;
            -p | --package) args+=(-p "$2"); shift 2 ;;
            --package=*) args+=(-p "${1#*=}"); shift ;;
            -v | --version) echo "npx is provided by bun $(bun --version)"; exit ;;
            --) shift; break ;;
            *) args+=("$1"); shift ;;
        esac
    done
    program=${1-}
    [[ $program ]] || { echo "usage: npx [-p PACKAGE] PROGRAM [ARGUMENTS] (by bunx)" >&2; exit 2; }

    # A program that is installed needs no download.
    if ! ((${#args[@]})) && program=$(PATH=$PWD/node_modules/.bin:$HOME/node_modules/.bin type -P "$1"); then
        shift
        exec "$program" "$@"
    fi
    has_network || no_network javascript "${1}@latest"
    exec bun x "${args[@]}" "$@"
}

case $name in
    pip | pip3) name=pip; pip "$@" ;;
    npm) npm "$@" ;;
    npx) npx "$@" ;;
    *) echo "$0: unknown name" >&2; exit 2 ;;
esac

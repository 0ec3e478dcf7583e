# install.sh LANGUAGE DIRECTORY SPEC...: installs packages below DIRECTORY, and prints the list of installed packages as
# JSON. Errors of the package manager go to standard error.
language=$1 tree=$2
shift 2
# The gateway decrypts requests; the guest trusts its authority like those of the host.
export SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
export NODE_EXTRA_CA_CERTS=$SSL_CERT_FILE UV_SYSTEM_CERTS=1 UV_NATIVE_TLS=1
if [[ $language == python ]]; then
    to=$tree$(python3 -c 'import site; print(site.getusersitepackages())') || exit
    # Programs of packages go to a directory in the PATH of later runs.
    mkdir -p "$to" "$tree$HOME/.local/bin" && ln -s ../../../bin "$to/bin" || exit
    uv() { command uv pip "$1" --quiet --no-progress --no-cache --target "$to" "${@:2}"; }
    # Try wheels first; build packages that have none, if possible.
    if ! said=$(uv install --no-build -- "$@" 2>&1); then
        case $said in
            *--no-build* | *"building from source is disabled"*) uv install -- "$@" >&2 || exit ;;
            *) printf '%s\n' "$said" >&2; exit 1 ;;
        esac
    fi
    # Paths in programs are those of later runs.
    find "$tree$HOME/.local/bin" -type f -exec grep -lIF "$tree$HOME" {} + | xargs -r sed -i "s|$tree$HOME|$HOME|g"

    # Caches that packages fill at their first use, which takes matplotlib up to a minute under emulation. Only its list
    # of fonts is needed so far: see "Caches" in the guide to packages. A failure costs time and nothing else.
    if [[ -d $to/matplotlib ]]; then
        HOME=$tree$HOME MPLBACKEND=agg PYTHONHASHSEED=0 PYTHONDONTWRITEBYTECODE=1 \
            timeout 300 python3 -c 'import matplotlib.font_manager' >&2
    fi
    uv list --format json
else
    cd "$tree$HOME" || exit
    bun add --no-progress --no-cache -- "$@" >&2 || exit
    bun -e '
        const { Glob } = Bun, found = [];
        for (const place of ["**/node_modules/*", "**/node_modules/@*/*"]) {
            for (const at of new Glob(`${place}/package.json`).scanSync({ dot: true })) {
                const { name, version } = await Bun.file(at).json();
                if (name && version) found.push({ name, version });
            }
        }
        console.log(JSON.stringify(found));
    '
fi

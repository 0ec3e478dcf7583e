# Installs packages for the language that the first argument names. Then lists the installed packages on descriptor 3,
# as a displayed value: a line of JSON.
language=$1
shift
if [[ $language == python ]]; then
    to=$(python3 -c 'import site; print(site.getusersitepackages())') || exit
    # Programs of packages go to a directory in PATH.
    mkdir -p ~/.local/bin "$to" && { [[ -e $to/bin ]] || ln -s ../../../bin "$to/bin"; } || exit
    # With a cache, the downloads would be in the guest's memory twice.
    uv pip install --quiet --no-progress --no-cache --target "$to" -- "$@" || exit
    list=$(uv pip list --quiet --target "$to" --format json) || exit
else
    cd || exit
    bun add --no-progress --no-cache -- "$@" || exit
    list=$(bun -e '
        const { Glob } = Bun, found = [];
        for (const place of ["*", "@*/*"]) {
            for (const at of new Glob(`node_modules/${place}/package.json`).scanSync()) {
                const { name, version } = await Bun.file(at).json();
                found.push({ name, version });
            }
        }
        found.sort((a, b) => (a.name < b.name ? -1 : 1));
        console.log(JSON.stringify(found));
    ') || exit
fi
printf '{"application/json":%s}\n' "$list" >&3

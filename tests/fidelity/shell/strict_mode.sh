set -euo pipefail
IFS=$'\n\t'
count() { local n=0; for _ in "$@"; do n=$((n + 1)); done; echo "$n"; }
count "a b" c
unset_one="${unset_one:-default}"; echo "$unset_one"
grep missing /dev/null || echo "none"
grep missing /dev/null
echo "not reached"

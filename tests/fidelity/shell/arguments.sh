# fidelity: args=a "b c" "" -x --long=1
echo $# "$1" "$2" "[$3]" "$4" "$5"
for a in "$@"; do printf '<%s>' "$a"; done; echo
for a in "$*"; do printf '<%s>' "$a"; done; echo
shift 2; echo $# "${@: -1}" "${@:1:1}"
IFS=,; echo "$*"

# fidelity: args=--n 5 "two words" "" ünïcode
# fidelity: skip=context -- a context has no arguments
echo "$#"
printf '[%s]\n' "$@"
shift
echo "$1"

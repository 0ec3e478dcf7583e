# fidelity: args=--n 5 "two words" "" ünïcode
echo "$#"
printf '[%s]\n' "$@"
shift
echo "$1"

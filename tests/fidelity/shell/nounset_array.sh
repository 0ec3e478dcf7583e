set -u
a=()
echo "${#a[@]}" "${a[@]}"
declare -A m
echo "${m[k]}"
echo "not reached"

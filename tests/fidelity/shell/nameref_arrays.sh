declare -n r=arr; arr=(1 2 3); r+=(4); echo "${r[@]}" "${#r[@]}" "${r[-1]}"
declare -A map; declare -n m=map; m[k]=v; echo "${map[k]}"
unset -n r; echo "${r-unset}"

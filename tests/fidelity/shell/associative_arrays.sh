declare -A m=([a]=1 [b c]=2)
m[d]=3; m[a]+=x
for k in "${!m[@]}"; do echo "$k=${m[$k]}"; done | sort
unset 'm[d]'; echo "${#m[@]}" "${m[none]-default}"
[[ -v m[a] ]] && echo set; [[ -v m[z] ]] || echo unset

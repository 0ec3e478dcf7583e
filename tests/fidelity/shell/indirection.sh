name=target; target=value; echo "${!name}"
prefix_a=1 prefix_b=2; echo "${!prefix_@}" "${!prefix_*}"
declare -n ref=target; ref=changed; echo "$target" "${!ref}"
f() { local -n out=$1; out="from f"; }; f target; echo "$target"

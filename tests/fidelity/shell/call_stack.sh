a() { b; }
b() { c; }
c() { echo "${FUNCNAME[*]}"; echo "${BASH_LINENO[*]}"; local i=0; while caller $i; do ((i++)); done; }
a
echo "${FUNCNAME[0]-none}" "${#FUNCNAME[@]}"

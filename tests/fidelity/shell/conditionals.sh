[[ abc == a* && abc =~ ^a(b)c$ ]] && echo "${BASH_REMATCH[1]}"
[[ 10 -gt 9 && ! 10 < 9 ]] ; echo $?
[ -z "" -a -n x ] && echo and
[[ -e /etc/passwd && -d /tmp && ! -w /etc/passwd ]] && echo files
test 1 -eq 2; echo $?
[ 1 -eq x ]; echo $?
[[ a -eq 0 ]]; echo $?

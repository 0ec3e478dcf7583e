coproc UP { while read -r l; do echo "${l^^}"; done; }
echo hello >&"${UP[1]}"; read -r x <&"${UP[0]}"; echo "$x"
exec {UP[1]}>&-; wait $UP_PID; echo $?

[[ -t 0 || -t 1 || -t 2 ]] || echo "no terminal"; tty; echo $?; stty size 2>&1 | head -c 5; echo; echo "$TERM" "${COLUMNS-unset}" "${PS1-unset}"

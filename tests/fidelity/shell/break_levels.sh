# fidelity: skip=context -- a stray break ends the exec of a context with a message
for i in 1 2; do for j in a b; do [[ $j == b ]] && continue 2; echo $i$j; break 5; done; done; echo end
for i in 1; do break 0; echo "status $?"; done
while :; do break; done; echo $?

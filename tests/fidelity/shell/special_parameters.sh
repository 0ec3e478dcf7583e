true; echo $?; false; echo $?
(exit 42); echo $?
echo "$-" | tr -d 's'
sleep 0 & [[ $! -gt 1 ]] && echo background
wait $!; echo $?
[[ $$ == "$BASHPID" ]] && echo same; ( [[ $$ != "$BASHPID" ]] && echo differ )
[[ $PPID -ge 0 ]] && echo parent
: one two; echo "$_"

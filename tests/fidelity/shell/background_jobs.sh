sleep 0.05 & p=$!
jobs | sed 's/  */ /g'
wait $p; echo $?
(exit 7) & wait $!; echo $?
wait 999999; echo $?
for i in 1 2 3; do (exit $i) & done; wait; echo $?

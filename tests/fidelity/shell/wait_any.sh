(sleep 0.02; exit 3) & (sleep 0.3; exit 4) &
wait -n; echo $?
wait -n; echo $?
wait -n; echo $?

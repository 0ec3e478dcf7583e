set -m
sleep 0.05 & jobs -l | grep -c sleep
fg %1 > /dev/null; echo $?
disown 2>/dev/null; echo $?
kill %1; echo $?

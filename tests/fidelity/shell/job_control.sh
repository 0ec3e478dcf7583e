set -m
sleep 0.4 & jobs -l | grep -c sleep
fg %1 > /dev/null; echo $?
kill %1; echo $?

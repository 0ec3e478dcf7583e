eval 'if'; echo "status $?"
eval 'echo fine'; echo $?

/tmp
echo $?
cd /nonexistent
echo $?

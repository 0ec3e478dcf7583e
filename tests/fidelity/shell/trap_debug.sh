trap 'echo "debug: $BASH_COMMAND"' DEBUG
a=1
echo $a
for i in 1 2; do echo $i; done
trap - DEBUG
echo end

read -r x; echo "$? [$x]"
cat; echo $?

cat <<< "one $((1 + 1))"
read -r a b <<< "x y z"; echo "$a|$b"
tr a-z A-Z <<< word

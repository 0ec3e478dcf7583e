for ((i = 0, j = 9; i < 3; i++, j--)); do echo $i $j; done
i=0; until ((i >= 2)); do echo "until $i"; ((i++)); done
for w in; do echo never; done; echo $?
select_input() { select x in a b; do echo "chose $x"; break; done; }; select_input <<< 2

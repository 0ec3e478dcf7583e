printf 'a b c\n' | { read -r x y; echo "$x|$y"; }
printf 'a\\b\n' | { read x; echo "$x"; }
printf 'a:b:c' | { IFS=: read -r -a arr; echo "$? ${#arr[@]} ${arr[2]}"; }
printf 'abcdef' | { read -r -n 3 x; echo "$x"; read -r -N 2 y; echo "$y"; }
printf 'one;two;' | { read -r -d ';' x; echo "$x"; }
read -r x < /dev/null; echo "eof $?"
read -t 0.01 x < <(sleep 0.1); echo $(($? > 128))

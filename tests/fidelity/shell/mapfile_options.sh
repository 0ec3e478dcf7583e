mapfile -t a < <(printf '1\n2\n3\n'); echo "${a[@]}"
mapfile -t -n 2 -s 1 b < <(printf '1\n2\n3\n4\n'); echo "${b[@]}"
mapfile -d : -t c <<< "x:y:z"; printf '[%s]' "${c[@]}"; echo
cb() { echo "cb $1 $2"; }; mapfile -t -C cb -c 2 d < <(printf '1\n2\n3\n4\n'); readarray -t -O 5 e <<< q; echo "${!e[@]}"

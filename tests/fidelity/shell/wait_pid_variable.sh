(sleep 0.05; exit 6) & a=$!; wait -n -p pid $a; echo "$? $((pid == a))"

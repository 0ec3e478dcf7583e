for ((i = 0; i < 1000; i++)); do echo "line $i of some length to fill pipes"; done
echo end >&2

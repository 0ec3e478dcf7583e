printf 'b\nA\na\nB\n' | sort; printf 'é\nz\ne\n' | sort; printf '10\n9\n' | sort -n; LC_ALL=C sort <<< $'b\nA'

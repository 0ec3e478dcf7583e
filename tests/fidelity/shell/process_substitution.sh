diff <(printf '1\n2\n') <(printf '1\n3\n'); echo $?
while read -r l; do echo "got $l"; done < <(printf 'x\ny\n')
echo data > >(sed 's/^/out: /'); wait $!; echo done
cat <(echo a) <(echo b)

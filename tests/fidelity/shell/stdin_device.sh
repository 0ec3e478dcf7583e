# fidelity: stdin=one\ntwo\n
read -r a < /dev/stdin; echo "$a"
cat /dev/stdin

# fidelity: stdin=x y z\n
cat /dev/stdin | wc -w

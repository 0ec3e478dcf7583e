# fidelity: stdin=data\n
cat /dev/fd/0

# fidelity: stdin=1\n2\n3\n
read -r a; sed 's/^/sed: /'; echo "a=$a"

# fidelity: stdin=first\nsecond line\nthird
read -r a; echo "a=$a"
while IFS= read -r l || [[ $l ]]; do echo "l=$l"; done
read -r x; echo $?

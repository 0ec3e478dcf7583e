# fidelity: stdin=one two\nthree\nrest
read -r first second
echo "$first, $second"
while IFS= read -r line || [[ $line ]]; do echo "[$line]"; done

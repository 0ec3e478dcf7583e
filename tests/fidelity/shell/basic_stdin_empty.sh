cat
read -r line
echo "$? [$line]"
[[ -t 0 ]] || echo "no terminal"

trap 'echo never' EXIT
exec sh -c 'echo replaced $0 $1' name arg
echo "not reached"

trap 'echo "exit $?"' EXIT
echo leaving
exit 3

echo one
echo two >&2
echo three
echo four >&2

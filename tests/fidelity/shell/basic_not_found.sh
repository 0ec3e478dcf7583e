no-such-program one two
echo "$?"

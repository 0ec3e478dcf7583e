exec /nonexistent
echo "not reached"

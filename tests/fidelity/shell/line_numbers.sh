echo $LINENO

echo $LINENO
f() {
  echo $LINENO
}
f
echo "$(echo $LINENO)"
eval 'echo $LINENO
echo $LINENO'

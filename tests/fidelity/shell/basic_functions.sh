count() {
  local -i n=$1
  ((n > 0)) || return 7
  echo "$n"
  count $((n - 1))
}
count 3
echo "status $?"

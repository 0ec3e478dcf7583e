printf '%s\n' b a c | sort | tr a-z A-Z
x=$(printf 'a\n\n'; exit 4)
echo "$? [$x]"
cat <<END | wc -l
$x
END

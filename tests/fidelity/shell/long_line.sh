s=$(printf 'x%.0s' {1..20000}); echo ${#s}; echo "$s" | wc -c

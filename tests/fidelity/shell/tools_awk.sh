printf 'a 1\nb 2\n' | awk '{s += $2; print NR, $1} END {print s}'; awk 'BEGIN {printf "%.2f\n", 1/3; print length("äö")}'

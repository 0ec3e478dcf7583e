echo before
echo a ) b

echo 'single $x' "double \$x \" \\" $'ansi\t\x41\u00e9\n' $"locale"
echo a\ b "a"'b'c
x='*'; echo "$x" | cat; echo \*

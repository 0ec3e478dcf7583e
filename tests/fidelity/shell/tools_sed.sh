printf 'foo bar\n' | sed -E 's/(\w+) (\w+)/\2 \1/'; sed -n '2,3p' <<< $'1\n2\n3\n4'; echo text > f; sed -i 's/t/T/g' f; cat f; rm f

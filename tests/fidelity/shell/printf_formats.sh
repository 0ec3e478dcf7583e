printf '%5d|%-5s|%05.1f|%x|%o|%e|%c|%%\n' 42 ab 3.14159 255 8 12345.678 xyz
printf '%s-%s\n' a b c; printf '%q ' 'a b' '$x' $'\n' ''; echo
printf '%(%Y)T\n' 0; printf '%b\n' 'a\tb'; printf -v out '%03d' 7; echo "$out"
printf '%d\n' abc; echo $?; printf '%d %s\n' "'A" end

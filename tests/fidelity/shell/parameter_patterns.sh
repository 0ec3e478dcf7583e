p=/usr/local/lib/file.tar.gz
echo "${p##*/}" "${p%/*}" "${p%%.*}" "${p#*/}" "${p/local/LOCAL}" "${p//l/L}" "${p/#\/usr/U}" "${p/%gz/xz}"
echo "${#p}" "${p:5:5}" "${p: -2}" "${p:0:-3}"
s="Hello World"; echo "${s^^}" "${s,,}" "${s~~}" "${s^}" "${s,}" "${s^^[aeiou]}"

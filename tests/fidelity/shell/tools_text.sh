printf 'a,b,c\n' | cut -d, -f2; printf 'x\nx\ny\n' | uniq -c | tr -s ' '; seq 3 | paste -sd+; echo abc | rev; printf '3\n1\n' | xargs -n1 echo n; wc -c <<< hello

t=$(mktemp); [[ -f $t && $t == /tmp/* ]] && echo file; echo x > "$t"; cat "$t"; rm "$t"
d=$(mktemp -d); [[ -d $d && $(stat -c %a "$d") == 700 ]] && echo directory; rmdir "$d"
trap 'rm -f tmp.$$' EXIT; echo y > tmp.$$; cat tmp.*

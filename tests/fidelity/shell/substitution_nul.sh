v=$(printf 'a\0b'); echo "$v" "${#v}"

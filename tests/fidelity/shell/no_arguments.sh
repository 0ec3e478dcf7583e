echo "$#" "[$*]" "[$@]"
set -- x y
echo "$#" "$1" "${!#}"
shift 5; echo "$? $#"

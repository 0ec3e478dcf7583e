v="a  b   c"; set -- $v; echo $# "$2"
IFS=:; v=a::b:; set -- $v; echo $#; printf '[%s]' "$@"; echo
IFS=; v="a b"; set -- $v; echo $#
unset IFS; set -- $v; echo $#

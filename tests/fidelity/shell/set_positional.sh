set -- a b c; echo "$2"; set --; echo $#; set -f; echo *; set +f; set -o nosuch; echo $?

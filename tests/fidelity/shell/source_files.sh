printf 'echo "sourced $1 ${BASH_SOURCE[0]} $0" | sed "s:$PWD/::"\nv=set\nreturn 5\n' > lib.sh
. ./lib.sh arg; echo "$? $v $#"
source lib.sh; echo $?
. ./missing.sh; echo $?
PATH=$PWD:$PATH; . lib.sh; rm lib.sh

compgen -b | wc -l; type -t cd ls f if; type nosuch; echo $?; command -v bash; builtin nosuch; echo $?

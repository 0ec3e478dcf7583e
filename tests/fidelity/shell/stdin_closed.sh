exec 0<&-; read -r x; echo $?; cat; echo $?

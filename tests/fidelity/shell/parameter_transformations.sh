v=$'a b\n"c"'; echo "${v@Q}" "${v@E}" "${v@U}" "${v@u}" "${v@L}"
a=(1 "2 3"); echo "${a[@]@Q}" "${a[@]@A}" "${a[@]@K}"
declare -r ro=1; echo "${ro@a}" "${a@a}"

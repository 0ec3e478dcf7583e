# fidelity: args=p q
shopt -s extdebug; f() { echo "${BASH_ARGC[*]}" "${BASH_ARGV[*]}"; }; f x y z

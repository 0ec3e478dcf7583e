# fidelity: skip=context -- names, a trap and descriptors of the runner are visible in a context
declare -F | wc -l
alias | wc -l
trap
hash
jobs

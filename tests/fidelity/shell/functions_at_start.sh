declare -F | wc -l
alias | wc -l
trap
hash
jobs

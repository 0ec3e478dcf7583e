# fidelity: skip=context -- names, a trap and descriptors of the runner are visible in a context
declare -p | grep -v -e EPOCH -e PIPESTATUS -e RANDOM -e SRANDOM -e BASHPID -e PPID -e HOSTNAME -e SECONDS -e 'BASH_ARG' -e ' _='

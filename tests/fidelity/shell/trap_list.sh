trap -l | head -n 3
trap 'a' EXIT; trap -p EXIT; trap - EXIT
trap x NOSUCH; echo $?

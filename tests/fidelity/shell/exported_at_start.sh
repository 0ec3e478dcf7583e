env | sort | grep -v -e HOSTNAME
export -p | grep -v HOSTNAME

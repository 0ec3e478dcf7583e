# fidelity: args=-z -b
while getopts "ab:" o; do echo "[$o] [${OPTARG-unset}]"; done
echo "$OPTIND"

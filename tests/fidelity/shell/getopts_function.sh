parse() { local OPTIND=1 o; while getopts "x:y" o "$@"; do echo "$o ${OPTARG-}"; done; echo "$OPTIND"; }
parse -x 1 -y; parse -yx2 -- -y

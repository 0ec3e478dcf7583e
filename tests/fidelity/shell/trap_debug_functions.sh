set -T
f() { echo in; }
trap 'echo "$LINENO ${FUNCNAME[0]-main}: $BASH_COMMAND"' DEBUG
f

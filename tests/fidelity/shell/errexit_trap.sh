set -eE
trap 'echo "ERR at $LINENO: $BASH_COMMAND ($?)"' ERR
trap 'echo "EXIT $?"' EXIT
f() { false; }
f

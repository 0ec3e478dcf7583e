PS4='+ line $LINENO: '
set -x
echo one
f() { echo two; }
f

# fidelity: skip=context -- traces in a context start with one more +
PS4='+ line $LINENO: '
set -x
echo one
f() { echo two; }
f

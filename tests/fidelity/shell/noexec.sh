# fidelity: skip=context -- set -n stops the interpreter of a context for good
echo before
set -n
echo after

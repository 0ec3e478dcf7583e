# fidelity: skip=context -- a context goes on, and an EXIT trap runs at its end
trap 'echo "bye $?"' EXIT
false

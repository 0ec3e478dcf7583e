# fidelity: skip=context -- a context goes on, and an EXIT trap runs at its end
echo "$BASH_COMMAND"; trap 'echo "at exit: $BASH_COMMAND"' EXIT; true last

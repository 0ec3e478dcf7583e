echo "$BASH_COMMAND"; trap 'echo "at exit: $BASH_COMMAND"' EXIT; true last

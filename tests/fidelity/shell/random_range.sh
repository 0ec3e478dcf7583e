for i in {1..50}; do ((RANDOM < 32768)) || echo bad; done; [[ $SRANDOM != "$SRANDOM" ]] && echo differs

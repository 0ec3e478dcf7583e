# fidelity: skip=context -- names, a trap and descriptors of the runner are visible in a context
compgen -v | grep -v -e '^_$' -e PIPESTATUS | sort

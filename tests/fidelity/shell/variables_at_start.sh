compgen -v | grep -v -e '^_$' -e PIPESTATUS | sort

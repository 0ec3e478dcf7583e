umask 077; touch f; mkdir d; stat -c %a f d; umask 022; touch g; stat -c %a g; rm -r f d g

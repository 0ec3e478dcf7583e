# fidelity: skip=context -- names, a trap and descriptors of the runner are visible in a context
trap -p; trap '' PIPE; trap -p; sh -c 'kill -PIPE $$; echo ignored'; trap - PIPE; sh -c 'kill -PIPE $$; echo no'; echo $?

trap -p; trap '' PIPE; trap -p; sh -c 'kill -PIPE $$; echo ignored'; trap - PIPE; sh -c 'kill -PIPE $$; echo no'; echo $?

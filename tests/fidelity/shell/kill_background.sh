sleep 5 & kill $!; wait $!; echo $?
kill -0 $$; echo $?; kill -l 15; kill -l TERM; kill -0 999999; echo $?

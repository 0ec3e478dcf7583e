printf 'b\na\nc\n' | sort | head -n 2 | tr '\n' ' '; echo
echo x |& cat; ls /nonexistent |& wc -l
! true; echo $?; ! false; echo $?
time -p true 2> /dev/null; echo $?

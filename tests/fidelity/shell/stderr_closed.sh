exec 2>&-; ls /nonexistent; echo "status $?"

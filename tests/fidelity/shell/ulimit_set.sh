ulimit -n 64; ulimit -n; ulimit -S -c 0; ulimit -c; ulimit -n 100000000; echo $?

for i in 1 2 3; do echo "out $i" > /dev/stdout; echo "err $i" > /dev/stderr; done

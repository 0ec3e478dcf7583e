ulimit -a | grep -v -e processes -e signals -e pipe
umask; umask -S

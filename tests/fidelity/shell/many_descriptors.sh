for i in {20..60}; do eval "exec $i> /dev/null"; done; ls /proc/$$/fd | wc -l | { read -r n; ((n > 40)) && echo many; }

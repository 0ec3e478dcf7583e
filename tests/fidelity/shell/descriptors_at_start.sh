# fidelity: skip=context -- names, a trap and descriptors of the runner are visible in a context
ls /proc/self/fd | sort -n | head -n 3
for n in 3 4 5 6 10 63; do [[ -e /proc/$$/fd/$n ]] && echo "open $n" || echo "closed $n"; done

# fidelity: skip=context -- there is no file main.sh in a context
readlink -f "$0" | sed "s:$PWD/::"; ls -l "$0" | cut -c1; wc -l < "$0"; grep -c grep "$0"

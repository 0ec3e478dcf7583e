yes | head -n 1; (yes; echo "status $?" >&2) | head -n 1 > /dev/null

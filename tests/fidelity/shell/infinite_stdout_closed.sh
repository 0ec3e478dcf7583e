exec 1>&-; echo lost; echo "status $?" >&2

mapfile -d "" -u 3; exec 3<&-; eval "unset MAPFILE; ${MAPFILE[0]}"

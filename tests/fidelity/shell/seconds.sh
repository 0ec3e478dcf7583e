(( SECONDS < 10 )) && echo "starts at zero"
SECONDS=100; (( SECONDS >= 100 && SECONDS < 110 )) && echo "counts on"

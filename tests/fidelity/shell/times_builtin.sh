times | wc -l; TIMEFORMAT=%0R; { time :; } 2>&1

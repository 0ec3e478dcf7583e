echo before
ls /nonexistent 2>/dev/null

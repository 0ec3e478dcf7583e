eval $'echo a\r' | od -c | head -n 1

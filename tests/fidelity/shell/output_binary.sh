printf '\x00\xff\xfe\x80abc\n'; printf 'ä€😀\n'; printf '%b' '\0101\n'

printf 'a'

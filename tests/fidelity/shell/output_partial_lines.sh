printf 'no newline'; printf ' err' >&2; printf ' again'

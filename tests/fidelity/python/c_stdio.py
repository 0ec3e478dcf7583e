import ctypes
libc = ctypes.CDLL(None)
libc.printf(b"from C %d\n", 5)
libc.puts(b"put")

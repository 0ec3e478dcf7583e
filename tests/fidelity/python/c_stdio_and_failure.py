import ctypes
ctypes.CDLL(None).puts(b"printed before the error")
raise SystemExit("ended")

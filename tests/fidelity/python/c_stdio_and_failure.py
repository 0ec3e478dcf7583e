# fidelity: skip=context,display -- what C code holds back is written before an error is shown, so it comes first there
import ctypes
ctypes.CDLL(None).puts(b"printed before the error")
raise SystemExit("ended")

# fidelity: skip=context -- it does not end
import atexit
atexit.register(print, "after the traceback")
raise ValueError("failed")

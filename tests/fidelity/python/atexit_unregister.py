# fidelity: skip=context -- it does not end
import atexit
def f(): print("never")
atexit.register(f)
atexit.unregister(f)
atexit.register(print, "only this")

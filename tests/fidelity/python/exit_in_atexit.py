# fidelity: skip=context,display -- the hook is called by the runner
import atexit, sys
atexit.register(print, "first registered")
atexit.register(sys.exit, 7)
print("end")

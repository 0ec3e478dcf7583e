# fidelity: skip=context -- it does not end
import atexit, sys
atexit.register(print, "hook")
sys.exit(11)

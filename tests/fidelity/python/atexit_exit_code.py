import atexit, sys
atexit.register(print, "hook")
sys.exit(11)

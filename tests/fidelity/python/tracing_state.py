import sys, threading
print(sys.gettrace(), sys.getprofile(), sys.displayhook.__name__ if False else sys.displayhook is sys.__displayhook__)
print(sys.excepthook is sys.__excepthook__, sys.unraisablehook is sys.__unraisablehook__, sys.breakpointhook is sys.__breakpointhook__)
print(hasattr(sys, "ps1"), hasattr(sys, "last_value"), sys.exc_info(), sys.getswitchinterval())

# fidelity: skip=context -- a context has no file
import sys
del __file__
print("still ends with its code")
sys.exit(13)

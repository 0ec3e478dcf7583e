# fidelity: skip=context -- it does not end, and its module has no file
import atexit
def show():
    print("__file__" in globals(), "__cached__" in globals(), __name__)
atexit.register(show)

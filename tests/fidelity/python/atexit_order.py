# fidelity: skip=context -- it does not end
import atexit
for n in range(3): atexit.register(print, "exit", n)
@atexit.register
def last(): print("registered last, runs first")
print("end")

import os, signal
class Told(Exception): pass
def handler(*_): raise Told("by a signal")
signal.signal(signal.SIGUSR1, handler)
try:
    os.kill(os.getpid(), signal.SIGUSR1)
except Told as error:
    print("caught", error)

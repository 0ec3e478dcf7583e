# fidelity: skip=context -- it does not end
import atexit, os
path = "/tmp/fidelity-unflushed"
kept = open(path, "w")
kept.write("buffered")
print(os.path.getsize(path))
class Last:
    def __del__(self): print("size at the end", os.path.getsize(path))
del kept
print(os.path.getsize(path))
os.remove(path)

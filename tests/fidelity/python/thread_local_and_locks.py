import threading
local = threading.local()
local.x = 1
seen = []
def f():
    seen.append(hasattr(local, "x"))
thread = threading.Thread(target=f); thread.start(); thread.join()
print(seen, local.x)

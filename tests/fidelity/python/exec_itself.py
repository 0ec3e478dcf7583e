# fidelity: skip=context -- a context has no file
import os, sys
if "again" in sys.argv:
    print("second time")
else:
    print("first time", flush=True)
    os.execv(sys.executable, [sys.executable, *sys.argv, "again"])

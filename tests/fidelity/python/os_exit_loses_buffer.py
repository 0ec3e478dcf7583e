import os, sys
print("flushed", flush=True)
sys.stderr.write("error\n")
os._exit(3)

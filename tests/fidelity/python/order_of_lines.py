import sys, os
print("one")
print("two", file=sys.stderr)
print("three", end="")
os.write(1, b"") 
print("", flush=True)
sys.stderr.write("four\n")

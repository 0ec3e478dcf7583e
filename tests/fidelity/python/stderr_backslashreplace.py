import sys
print("bad \udcff", file=sys.stderr)
print("bad \udcff")

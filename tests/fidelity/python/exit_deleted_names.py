import sys
for name in list(globals()):
    if name.startswith("__") and name not in ("__builtins__",):
        del globals()[name]
sys.exit(9)

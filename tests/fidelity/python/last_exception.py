# fidelity: skip=context,display -- they do not set sys.last_value
import atexit, sys
atexit.register(lambda: print(sys.last_type.__name__, sys.last_value, sys.last_traceback.tb_lineno))
print(hasattr(sys, "last_value"))
raise KeyError("k")

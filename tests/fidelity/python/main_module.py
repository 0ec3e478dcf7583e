# fidelity: skip=context -- a context's module has no file
import __main__, sys
x = 5
print(__main__.x, sys.modules["__main__"] is __main__, type(__main__.__loader__).__name__)
print(__main__.__loader__.get_source("__main__").count("print"))
print(__cached__, __file__ == __main__.__file__ == sys.argv[0])

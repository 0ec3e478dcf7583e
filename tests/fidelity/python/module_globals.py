# fidelity: skip=context -- a context has no file
print(__name__, __doc__, __package__, __spec__, __builtins__)
print(sorted(globals()))
print(list(globals()) == list(vars()) == dir() or sorted(globals()) == dir())

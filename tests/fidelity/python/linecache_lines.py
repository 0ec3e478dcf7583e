# fidelity: skip=context -- a context has no file
import linecache
print(repr(linecache.getline(__file__, 3)))

import gc
print(gc.isenabled(), gc.get_threshold(), gc.get_debug(), gc.garbage)
class A: pass
a = A(); a.self = a
del a
print(gc.collect() > 0)

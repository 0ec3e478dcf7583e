# fidelity: skip=context -- it does not end
import weakref
class A: pass
a, b = A(), A()
weakref.finalize(a, print, "finalized a")
weakref.finalize(b, print, "finalized b at the end")
del a
print("end")

# fidelity: skip=context -- `inspect` finds classes by their module's file
import inspect
class A:
    """Documented."""
    def g(self): return 1
print(inspect.getsource(A), inspect.getsource(A.g), inspect.getdoc(A))
print(inspect.getsourcefile(A) == __file__, inspect.getmodule(A).__name__)

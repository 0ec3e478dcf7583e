# fidelity: skip=context -- it does not end
import atexit
class Bad:
    def __repr__(self): return "<bad>"
    def __call__(self):
        raise ValueError("in an exit hook")
atexit.register(print, "still runs")
atexit.register(Bad())

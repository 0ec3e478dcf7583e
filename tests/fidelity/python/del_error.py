# fidelity: skip=context -- C code finds no lines of a piece
class Failing:
    def __repr__(self): return "<failing>"
    def __call__(self):
        raise ValueError("in del")
class Bad:
    __del__ = Failing()
Bad()
print("goes on")

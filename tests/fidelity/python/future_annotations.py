from __future__ import annotations
def f(x: Undefined) -> Missing: pass
print(f.__annotations__)
class A:
    y: Nowhere = 1
print(A.__annotations__)
z: int = 3
print(__annotations__)

import typing
class A: pass
def f(x: "A") -> "typing.List[A]": ...
print(typing.get_type_hints(f))

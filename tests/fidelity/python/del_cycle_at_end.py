# fidelity: skip=context -- it does not end
class Node:
    def __del__(self): print("del", self.name)
a, b = Node(), Node()
a.name, b.name = "a", "b"
a.other, b.other = b, a
print("end")

# fidelity: skip=context -- it does not end
import os
class Tracked:
    def __init__(self, name): self.name = name
    def __del__(self): print("del", self.name, os is not None)
one = Tracked("one")
two = Tracked("two")

import sys
class Tee:
    def __init__(self, out): self.out = out
    def write(self, text): return self.out.write(text.upper())
    def flush(self): self.out.flush()
sys.stdout = Tee(sys.stdout)
print("loud", end="")

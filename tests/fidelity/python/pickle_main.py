import pickle
class Point:
    def __init__(self, x): self.x = x
def double(n): return 2 * n
copy = pickle.loads(pickle.dumps(Point(3)))
print(copy.x, type(copy) is Point, Point.__module__, pickle.loads(pickle.dumps(double)) is double)

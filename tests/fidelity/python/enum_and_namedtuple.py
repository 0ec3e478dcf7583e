import collections, enum, pickle
class Color(enum.Enum): RED = 1
Pair = collections.namedtuple("Pair", "a b")
print(pickle.loads(pickle.dumps([Color.RED, Pair(1, 2)])), Pair.__module__)

print(hash(1), hash(2.5), hash((1, 2)), hash("a") == hash("a"))
print(sorted({"b", "a", "c"}))

print("one")
x = """a
b"""
print(repr(x))

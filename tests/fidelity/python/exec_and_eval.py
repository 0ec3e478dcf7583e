names = {}
exec("x = 1\ny = x + 1", names)
print(names["y"], eval("y * 2", names), eval("__name__"))
exec("z = 3")
print(z, "z" in globals())

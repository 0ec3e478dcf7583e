import builtins, types
print(isinstance(__builtins__, types.ModuleType), __builtins__ is builtins)
builtins.shout = lambda text: print(text.upper())
shout("from builtins")
print(hasattr(__builtins__, "shout"))

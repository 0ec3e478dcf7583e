import os
code = compile("def f(): pass", "<made>", "exec")
def g(): pass
print(code.co_filename, g.__code__.co_firstlineno, g.__module__, g.__globals__ is globals())

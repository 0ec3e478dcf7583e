import inspect
def f(x):
    # a comment
    return x + 1
print(inspect.getsource(f), inspect.getsourcelines(f)[1])

# fidelity: skip=context -- its code is not read from a file
def f():
print("no")

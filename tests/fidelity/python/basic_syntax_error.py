# fidelity: skip=context -- a context has its own names for code
print("never")
def broken(:
    pass

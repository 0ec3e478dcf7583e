# fidelity: skip=context -- a context has its own names for code
def divide(number):
    return number / 0


print("before")
divide(1)

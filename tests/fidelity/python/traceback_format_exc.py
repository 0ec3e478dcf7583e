import traceback
def f(): 1 / 0
try:
    f()
except ZeroDivisionError:
    print(traceback.format_exc(), end="")

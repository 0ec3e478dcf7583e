import sys, traceback
def f():
    frame = sys._getframe()
    return frame.f_lineno, frame.f_code.co_name, frame.f_back.f_code.co_name
print(f())
for entry in traceback.extract_stack()[-1:]: print(entry.lineno, entry.name, entry.line)

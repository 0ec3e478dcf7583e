# fidelity: skip=context -- a context has no file
import os, stat
print(os.path.isabs(__file__), os.path.isfile(__file__), stat.S_ISREG(os.stat(__file__).st_mode))
with open(__file__) as file:
    text = file.read()
print(text.splitlines()[1], len(text.splitlines()))
print(os.path.samefile(os.path.dirname(__file__), os.path.dirname(os.path.abspath(__file__))))

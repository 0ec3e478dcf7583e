import os
first = os.open("/dev/null", os.O_RDONLY)
second = os.dup(first)
print(first, second)
os.close(first)
print(os.open("/dev/null", os.O_RDONLY))

import os
print(sorted(map(int, os.listdir("/proc/self/fd")))[:3])
for number in (3, 4, 5, 6):
    try:
        os.fstat(number)
        print(number, "open")
    except OSError as error:
        print(number, error.strerror)

with open("/dev/stdout", "w") as out: out.write("to stdout\n")
with open("/dev/fd/1", "w") as out: out.write("to fd 1\n")
with open("/dev/stderr", "w") as err: err.write("to stderr\n")
print(repr(open("/dev/stdin").read()))

import sys

print(repr(sys.stdin.read()), sys.stdin.isatty())
try:
    input("prompt ")
except EOFError as error:
    print("EOFError:", error)

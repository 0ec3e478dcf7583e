import sys
print(1, 2, sep="-", end="!\n")
print(*range(3), sep="\n")
print("x", file=sys.stderr, flush=True)
print()
print("é ü 漢字 🎉")

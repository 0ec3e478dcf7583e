import sys
print(sys.getrecursionlimit())
def deep(n):
    try:
        return deep(n + 1)
    except RecursionError:
        return n
print(deep(0) > 900)
sys.setrecursionlimit(200)
print(deep(0) < 200)

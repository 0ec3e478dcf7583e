# fidelity: skip=context,display -- their runner's calls count
def deep(n):
    try:
        return deep(n + 1)
    except RecursionError:
        return n
print(deep(0))

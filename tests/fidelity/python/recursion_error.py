# fidelity: skip=context,display -- their runner's calls count
def forever(n):
    return forever(n + 1)
forever(0)

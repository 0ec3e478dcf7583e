def f(n):
    if n: return f(n - 1)
    raise ValueError("deep")
f(20)

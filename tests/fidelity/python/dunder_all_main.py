import __main__
__all__ = ["x"]
x = 1
print(__main__.__all__, [n for n in vars(__main__) if n == "x"])

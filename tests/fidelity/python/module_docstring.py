"""The program's own
docstring."""
print(repr(__doc__))

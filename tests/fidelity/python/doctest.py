# fidelity: skip=context -- a context has no file
import doctest
def add(a, b):
    """
    >>> add(1, 2)
    3
    >>> add(1, 1)
    5
    """
    return a + b
print(doctest.testmod())

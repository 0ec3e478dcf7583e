import warnings
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    warnings.warn("recorded", RuntimeWarning)
print([(w.category.__name__, str(w.message), w.lineno) for w in seen])

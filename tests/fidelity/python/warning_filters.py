import warnings
print(warnings.filters[0][0], len(warnings.filters))
warnings.simplefilter("error")
try:
    warnings.warn("raised")
except UserWarning as error:
    print("caught", error)
warnings.warn("uncaught")

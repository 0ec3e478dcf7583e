import importlib.metadata, importlib.util
print(importlib.util.find_spec("json").name, importlib.util.find_spec("nothing_here"))
try: importlib.metadata.version("no-such-package")
except importlib.metadata.PackageNotFoundError as error: print(error)

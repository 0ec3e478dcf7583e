# fidelity: skip=context -- a context starts with the current directory
import os, sys
print(sys.path[0] == os.path.dirname(os.path.abspath(__file__)))
print(all(isinstance(p, str) for p in sys.path), len(sys.path) == len(set(sys.path)))
print([p for p in sys.path if "fumehood" in p], [p for p in sys.path_importer_cache if "fumehood" in p])
print("PYTHONPATH" in os.environ, "sitecustomize" in sys.modules or "no sitecustomize", "usercustomize" in sys.modules)

import sys
print([name for name, module in sys.modules.items() if module is None])
print("__main__" in sys.modules, list(sys.modules)[:3])

# fidelity: skip=context,display -- they find the matplotlib backend
import sys
print([getattr(f, "__name__", type(f).__name__) for f in sys.meta_path], len(sys.path_hooks))
class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "wanted": print("asked for", name)
sys.meta_path.insert(0, Finder)
try: import wanted
except ModuleNotFoundError as error: print(error)

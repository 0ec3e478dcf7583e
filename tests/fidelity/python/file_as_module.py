# fidelity: skip=context -- a context has no file
import importlib, os, sys
VALUE = [1]
if __name__ == "__main__":
    name = os.path.splitext(os.path.basename(__file__))[0]
    spec = importlib.util.spec_from_file_location("copy_of_me", __file__) if hasattr(importlib, "util") else None
    import importlib.util
    spec = importlib.util.spec_from_file_location("copy_of_me", __file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    print(module.VALUE == VALUE, module.VALUE is VALUE, module.__name__)

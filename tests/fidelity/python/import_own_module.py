# fidelity: skip=context -- a context looks in the current directory
import os, sys
here = os.path.dirname(__file__)
with open(os.path.join(here, "fidelity_helper.py"), "w") as file:
    file.write("print('loaded', __name__)\nVALUE = 5\n")
try:
    import fidelity_helper
    print(fidelity_helper.VALUE, fidelity_helper.__file__ == os.path.join(here, "fidelity_helper.py"))
finally:
    os.remove(os.path.join(here, "fidelity_helper.py"))
    import shutil
    shutil.rmtree(os.path.join(here, "__pycache__"), ignore_errors=True)

# fidelity: only=context
import os, tempfile
directory = tempfile.mkdtemp()
os.chdir(directory)
open("fidelity_near.py", "w").write("VALUE = 1")
import fidelity_near
print(fidelity_near.VALUE)

# fidelity: skip=context -- it does not end
import os, tempfile
kept = tempfile.TemporaryDirectory(prefix="fidelity-")
print(os.path.isdir(kept.name))

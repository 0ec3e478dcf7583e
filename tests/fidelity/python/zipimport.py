import os, sys, tempfile, zipfile
path = os.path.join(tempfile.mkdtemp(), "packed.zip")
with zipfile.ZipFile(path, "w") as archive: archive.writestr("packed.py", "X = 'from a zip'")
sys.path.insert(0, path)
import packed
print(packed.X)

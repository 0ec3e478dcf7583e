import os, tempfile, time
with tempfile.NamedTemporaryFile() as file:
    print(abs(os.stat(file.name).st_mtime - time.time()) < 5)

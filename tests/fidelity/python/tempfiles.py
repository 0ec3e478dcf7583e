import os, tempfile
print(tempfile.gettempdir(), tempfile.gettempprefix())
with tempfile.NamedTemporaryFile("w+", suffix=".txt") as file:
    file.write("x"); file.seek(0)
    print(file.read(), os.path.dirname(file.name), oct(os.stat(file.name).st_mode))
print(os.path.exists(file.name))

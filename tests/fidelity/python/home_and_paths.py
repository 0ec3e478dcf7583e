import os, pathlib
print(pathlib.Path.home() == pathlib.Path(os.environ["HOME"]), os.path.expanduser("~") == os.environ["HOME"])
print(pathlib.Path.cwd() == pathlib.Path(os.getcwd()))

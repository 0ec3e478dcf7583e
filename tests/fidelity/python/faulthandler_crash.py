import subprocess, sys
ended = subprocess.run([sys.executable, "-X", "faulthandler", "-c", "import ctypes; ctypes.string_at(0)"], capture_output=True, text=True)
print(ended.returncode, ended.stderr.splitlines()[0])

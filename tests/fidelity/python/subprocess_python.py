import subprocess, sys
code = "import sys; print(sys.argv, sys.flags.safe_path, [p for p in sys.path if 'fumehood' in p], 'sitecustomize' in sys.modules or 0)"
print(subprocess.run([sys.executable, "-c", code, "x"], capture_output=True, text=True))

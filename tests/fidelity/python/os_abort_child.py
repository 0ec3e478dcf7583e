import os, signal, subprocess, sys
ended = subprocess.run([sys.executable, "-c", "import os; os.abort()"])
print(ended.returncode == -signal.SIGABRT)

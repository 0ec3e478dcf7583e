import signal, subprocess
text = subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True).stdout
print([line for line in text.splitlines() if line.startswith(("SigIgn", "SigBlk", "SigCgt"))])

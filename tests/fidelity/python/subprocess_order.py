import subprocess
print("before")
subprocess.run(["echo", "child"])
print("after")

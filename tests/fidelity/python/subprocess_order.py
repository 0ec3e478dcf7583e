import subprocess
print("before", flush=True)
subprocess.run(["echo", "child"])
print("after")

import subprocess
print(subprocess.run(["tr", "a-z", "A-Z"], input="shout", capture_output=True, text=True).stdout)

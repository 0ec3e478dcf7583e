import subprocess
print(subprocess.run("echo $(ls /proc/self/fd)", shell=True, capture_output=True, text=True, close_fds=False).stdout)

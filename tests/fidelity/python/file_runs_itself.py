# fidelity: skip=context -- a context has no file
import subprocess, sys
if len(sys.argv) > 1:
    print("child", sys.argv[1:], __name__)
    sys.exit(5)
ended = subprocess.run([sys.executable, __file__, "a", "b c"], capture_output=True, text=True)
print(ended.stdout, ended.returncode, ended.stderr == "")

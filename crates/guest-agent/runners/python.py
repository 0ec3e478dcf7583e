# Runs one program as `__main__`, as if it were the file main.py. Started by the agent; the program
# comes on descriptor 3, which is closed before the program runs: that tells the agent that Python
# is ready. Every line here, and every import, is paid for by every program: what only a failed
# program needs stands in failure.py. `os` and `sys` are loaded anyway.
import os
import sys

channel = open(3, "rb", 0)
CODE = channel.readall()
channel.close()
MAIN = type(sys)("__main__")
# There is no file: this is where tracebacks and `inspect` find the program's lines.
MAIN.__loader__ = type(sys)("loader")
MAIN.__loader__.get_source = lambda name=None: CODE.decode("utf-8", "replace")
MAIN.__file__ = os.getcwd() + "/main.py"
sys.modules["__main__"] = MAIN
sys.argv[:] = ["main.py"]
sys.path[0] = os.getcwd()
sys.stdout.reconfigure(line_buffering=True)
FAILED = None
try:
    exec(compile(CODE, "main.py", "exec", dont_inherit=True), MAIN.__dict__)
except SystemExit:
    raise
except BaseException as error:
    FAILED = error.with_traceback(error.__traceback__.tb_next)
if FAILED is not None:
    try:
        exec(open(__file__.replace("python.py", "failure.py")).read())
    except OSError:
        sys.__excepthook__(type(FAILED), FAILED, FAILED.__traceback__)
    sys.exit(130 if isinstance(FAILED, KeyboardInterrupt) else 1)

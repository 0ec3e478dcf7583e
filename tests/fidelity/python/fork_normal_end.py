# fidelity: skip=context -- it does not end
import atexit, os, sys
atexit.register(print, "atexit in", "both")
pid = os.fork()
if pid:
    print("child ended with", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
else:
    print("child")
    sys.exit(3)

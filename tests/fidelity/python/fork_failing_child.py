# fidelity: skip=context,display -- the child's traceback is written by the runner
import os
pid = os.fork()
if pid == 0:
    raise ValueError("in the child")
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

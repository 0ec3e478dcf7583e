# fidelity: skip=context,display -- their runner's calls are on the stack
import faulthandler, sys
def f(): faulthandler.dump_traceback(file=sys.stderr, all_threads=False)
f()

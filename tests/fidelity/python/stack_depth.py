# fidelity: skip=context,display -- their runner's calls are on the stack
import inspect, sys
print(sys._getframe().f_back, len(inspect.stack()))
def f(): return len(inspect.stack()), inspect.currentframe().f_back.f_code.co_name
print(f())

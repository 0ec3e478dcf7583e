# fidelity: skip=context,display -- its own calls are in the traceback
import sys
def hook(*_): raise RuntimeError("hook failed")
sys.excepthook = hook
raise ValueError("original")

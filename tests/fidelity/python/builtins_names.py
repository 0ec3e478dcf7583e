# fidelity: skip=context,display -- these add `display` and `get_ipython`
import builtins
print([name for name in dir(builtins)])
print(exit, quit, copyright.__class__.__name__)

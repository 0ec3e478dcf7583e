import sys, types
module = types.ModuleType("made")
sys.modules["made"] = module
module.x = 3
import made
from made import x
print(made.x, x)

import os, sys
print([os.path.basename(p) for p in sys.path[1:]])
print(sys.prefix, sys.exec_prefix, sys.base_prefix, os.path.basename(sys.executable))

"""The module of `python3 -m pip` where pip is not installed: runs the command `pip`."""

import os
import sys

if __name__ == "__main__":
    os.execv("/usr/local/bin/pip", ["pip", *sys.argv[1:]])

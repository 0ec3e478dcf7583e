# fidelity: args=--count
# fidelity: skip=context -- the name of a context's program is empty
import argparse, os, sys
sys.argv[0] = "prog.py"
parser = argparse.ArgumentParser()
parser.add_argument("--count", type=int)
parser.parse_args()

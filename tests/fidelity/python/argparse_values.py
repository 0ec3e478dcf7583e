# fidelity: args=in.txt --n 5 --flag
import argparse
parser = argparse.ArgumentParser(description="d")
parser.add_argument("path")
parser.add_argument("--n", type=int, default=1)
parser.add_argument("--flag", action="store_true")
print(parser.parse_args())

# fidelity: args=--help
# fidelity: skip=context -- the name of a context's program is empty
import argparse
argparse.ArgumentParser(prog="p", description="Shows help.").parse_args()
print("unreachable")

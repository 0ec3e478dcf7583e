# fidelity: args=--n 5 "two words" "" ünïcode
# fidelity: skip=context -- a context has no arguments
import sys

print(sys.argv)

# fidelity: skip=context -- the code of a context is in no file
# fidelity: args=--n 5 "two words" "" ünïcode
import sys

print(sys.argv)

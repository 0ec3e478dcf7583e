# fidelity: args=--n 5 "two words" "" ünïcode
import sys

print(sys.argv)

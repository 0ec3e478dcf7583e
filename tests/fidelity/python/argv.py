# fidelity: args=a "b c" "" -x --long=1 é
# fidelity: skip=context -- argv[0] of a context is empty
import sys
print(sys.argv[1:], len(sys.argv), sys.argv[0] == __file__)
print(sys.orig_argv[1:] == sys.argv)

# fidelity: stdin=a\nbb\n\nc
import sys
print(repr(sys.stdin.readline()), repr(sys.stdin.readline(1)), sys.stdin.readlines())

# fidelity: stdin=one\ntwo\nthree
import sys

print(repr(input()))
print(sys.stdin.readlines())
print(repr(sys.stdin.read()))

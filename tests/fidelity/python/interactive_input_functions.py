# fidelity: stdin=secret\n
import sys
print(sys.stdin.readline().strip(), sys.stdin.buffer.read())

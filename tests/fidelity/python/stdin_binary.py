# fidelity: stdin=bytes \u00e9\n
import sys
data = sys.stdin.buffer.read()
print(data, len(data))

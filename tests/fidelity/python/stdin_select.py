# fidelity: stdin=ready\n
import select, sys
print(bool(select.select([sys.stdin], [], [], 5)[0]), sys.stdin.readline())

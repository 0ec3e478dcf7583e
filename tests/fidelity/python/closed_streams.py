import os, sys
sys.stdin.close()
os.write(1, b"direct\n")
sys.stdout.close()
os.write(2, b"still here\n")
try:
    print("lost")
except ValueError as error:
    print(error, file=sys.stderr)

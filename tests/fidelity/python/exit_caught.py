import sys
try:
    sys.exit(6)
except SystemExit as error:
    print("caught", error.code)
print("goes on")

import sys
for n in range(3000):
    sys.stdout.write("%05d %s\n" % (n, "x" * 50))
sys.stdout.write("y" * 200000 + "\n")

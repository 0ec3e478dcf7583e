# fidelity: stdin=a,b\n1,"x, y"\n
import csv, sys
for row in csv.DictReader(sys.stdin): print(row)

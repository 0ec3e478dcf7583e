import sys
sys.stdout.reconfigure(encoding="latin-1", errors="replace", newline="\r\n")
print("\xe9 \u20ac")
sys.stdout.reconfigure(encoding="utf-8", newline="\n")
print("\xe9 \u20ac")

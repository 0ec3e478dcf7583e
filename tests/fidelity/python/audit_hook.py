import sys
seen = []
sys.addaudithook(lambda event, args: seen.append(event) if event.startswith("fidelity") else None)
sys.audit("fidelity.test", 1)
print(seen)

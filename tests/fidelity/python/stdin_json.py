# fidelity: stdin={"k": [1, 2]}
import json, sys
print(json.load(sys.stdin)["k"])

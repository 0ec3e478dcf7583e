import importlib, json
before = json.dumps
print(importlib.reload(json) is json, json.dumps is before)

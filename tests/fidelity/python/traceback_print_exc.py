import traceback
try:
    raise ValueError("shown")
except ValueError:
    traceback.print_exc()
print("goes on")

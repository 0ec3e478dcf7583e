# fidelity: skip=context,display -- they report the exit code and not the signal
print("before")
raise KeyboardInterrupt

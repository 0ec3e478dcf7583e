compile("x = = 1", "given.py", "exec")

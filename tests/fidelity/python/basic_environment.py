import os

hidden = {"_", "SHLVL", "OLDPWD"}
for name in sorted(set(os.environ) - hidden):
    print(name, "=", os.environ[name])
print(os.getcwd())

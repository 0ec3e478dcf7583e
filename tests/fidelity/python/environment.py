import os
print(sorted(name for name in os.environ if name not in ("_", "SHLVL", "OLDPWD", "PWD", "LINES", "COLUMNS")))
print(os.environ["HOME"], os.environ.get("LANG"), os.environ.get("TERM"))
os.environ["NEW"] = "value"
print(os.popen("echo $NEW").read(), os.getenv("MISSING", "default"))

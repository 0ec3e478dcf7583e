import os, resource
mask = os.umask(0o022)
print(oct(mask))
for name in ("RLIMIT_CORE", "RLIMIT_STACK", "RLIMIT_DATA", "RLIMIT_FSIZE"):
    print(name, resource.getrlimit(getattr(resource, name)))
print(os.nice(0), os.cpu_count() == len(os.sched_getaffinity(0)))

import os
print(os.getpid() != os.getppid(), os.getpgid(0) == os.getpid(), os.getsid(0) == os.getpid())
print(os.getuid() == os.geteuid(), os.getgid() == os.getegid(), os.getgroups() == sorted(os.getgroups()))

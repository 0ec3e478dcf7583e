import os
print(os.system("exit 3") >> 8)
print(os.waitstatus_to_exitcode(os.system("kill -9 $$")))
print(os.popen("echo popen").read())

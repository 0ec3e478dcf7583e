import sys
sys.stdout.buffer.write(b"\xff\xfe raw \x00\n")
sys.stdout.flush()
sys.stderr.buffer.write(b"raw error\n")
sys.stderr.flush()
print(sys.stdout.buffer.fileno(), sys.stderr.buffer.fileno())

import socket
a, b = socket.socketpair()
a.sendall(b"through"); a.close()
print(b.recv(100), b.recv(100))

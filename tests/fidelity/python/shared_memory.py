from multiprocessing import shared_memory
block = shared_memory.SharedMemory(create=True, size=1000)
block.buf[:3] = b"abc"
other = shared_memory.SharedMemory(block.name)
print(bytes(other.buf[:3]), other.size >= 1000)
other.close(); block.close(); block.unlink()

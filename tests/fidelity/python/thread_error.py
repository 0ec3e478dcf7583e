# fidelity: skip=context -- C code finds no lines of a piece
import threading
def bad(): raise ValueError("in a thread")
thread = threading.Thread(target=bad, name="worker")
thread.start()
thread.join()
print("main goes on")

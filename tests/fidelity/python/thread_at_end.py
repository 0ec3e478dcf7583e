# fidelity: skip=context -- it does not wait for threads
import threading, time
def work():
    time.sleep(0.05)
    print("thread", threading.current_thread().name, threading.main_thread().name)
threading.Thread(target=work, name="worker").start()
print("main ends")

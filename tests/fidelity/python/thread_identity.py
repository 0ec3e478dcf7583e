import threading, _thread
print(threading.current_thread() is threading.main_thread(), threading.current_thread(). name, threading.active_count())
print(threading.get_ident() == threading.main_thread().ident, threading.enumerate() == [threading.main_thread()])

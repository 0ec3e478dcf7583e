import threading
def f():
    import site
    print("imported", site.__name__)
thread = threading.Thread(target=f)
thread.start()
thread.join(5)
print(thread.is_alive())

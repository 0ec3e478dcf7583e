import multiprocessing, os
def work(queue, n):
    queue.put((n, __name__))
if __name__ == "__main__":
    queue = multiprocessing.Queue()
    process = multiprocessing.Process(target=work, args=(queue, 1))
    process.start()
    print(queue.get())
    process.join()
    print(process.exitcode, multiprocessing.get_start_method())

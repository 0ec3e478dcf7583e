import concurrent.futures
with concurrent.futures.ThreadPoolExecutor(3) as pool:
    print(list(pool.map(lambda n: n * n, range(5))))
    future = pool.submit(int, "no")
print(type(future.exception()).__name__)

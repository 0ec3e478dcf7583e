import concurrent.futures, math
if __name__ == "__main__":
    with concurrent.futures.ProcessPoolExecutor(1) as pool:
        print(list(pool.map(math.factorial, [3, 5])))

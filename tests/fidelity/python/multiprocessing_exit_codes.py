import multiprocessing, sys
if __name__ == "__main__":
    context = multiprocessing.get_context("fork")
    process = context.Process(target=sys.exit, args=(5,))
    process.start(); process.join()
    print(process.exitcode)

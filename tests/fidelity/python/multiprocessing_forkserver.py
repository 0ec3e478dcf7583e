# fidelity: skip=context -- workers cannot import a context's functions, as in a notebook
import multiprocessing
def square(x):
    return x * x
if __name__ == "__main__":
    with multiprocessing.get_context("forkserver").Pool(1) as pool:
        print(pool.map(square, [1, 2, 3]))

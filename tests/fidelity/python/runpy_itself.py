# fidelity: skip=context -- a context has no file
import runpy
if __name__ == "__main__":
    names = runpy.run_path(__file__, run_name="other")
    print(names["__name__"], names["SEEN"])
SEEN = __name__

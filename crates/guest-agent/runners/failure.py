# Prints the exception FAILED, which ended the program CODE, as the interpreter would. Executed by
# python.py.
import linecache
import traceback

LINES = CODE.decode("utf-8", "replace").splitlines(keepends=True)
# Whatever file of that name may lie in the working directory.
linecache.cache["main.py"] = (len(LINES), None, LINES, "main.py")
if sys.excepthook is sys.__excepthook__:
    traceback.print_exception(FAILED)
else:
    try:
        sys.excepthook(type(FAILED), FAILED, FAILED.__traceback__)
    except Exception as hook:
        print("Error in sys.excepthook:", file=sys.stderr)
        traceback.print_exception(hook.with_traceback(hook.__traceback__.tb_next))
        print("\nOriginal exception was:", file=sys.stderr)
        traceback.print_exception(FAILED)

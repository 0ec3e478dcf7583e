# Prints the exception FAILED as the interpreter would. Executed by python.py; SOURCES holds the code that
# is no file, by its name.
import linecache
import traceback

for name, code in SOURCES.items():
    known = linecache.cache.get(name)
    # Whatever file of that name may lie in the working directory; what came from one has a time.
    if known is None or len(known) < 2 or known[1] is not None:
        lines = code.decode("utf-8", "replace").splitlines(keepends=True)
        linecache.cache[name] = (len(code), None, lines, name)
if isinstance(FAILED, SyntaxError) and FAILED.text is None and FAILED.filename in SOURCES:
    # What the compiler finds after the parser comes without its line, which it looks for in a file.
    FAILED.text = linecache.getline(FAILED.filename, FAILED.lineno or 0) or None
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

# Prints the exception FAILED as the interpreter would. Executed by python.py; SOURCES maps names to code that is
# not in a file.
import io
import linecache
import traceback


def suggestion():
    # "Did you mean", which only Python's own output has before Python 3.12.
    if sys.version_info >= (3, 12) or not isinstance(FAILED, (NameError, AttributeError, ImportError)):
        return ""
    stderr, sys.stderr = sys.stderr, io.StringIO()
    try:
        sys.__excepthook__(type(FAILED), FAILED, FAILED.__traceback__)
        said = sys.stderr.getvalue().rstrip().rpartition("\n")[2]
    finally:
        sys.stderr = stderr
    return said[said.index(". Did you mean: ") :] if ". Did you mean: " in said else ""


for name, code in SOURCES.items():
    known = linecache.cache.get(name)
    # The working directory may contain a file with that name. A cache entry that came from a file has a time.
    if known is None or len(known) < 2 or known[1] is not None:
        lines = code.decode("utf-8", "replace").splitlines(keepends=True)
        linecache.cache[name] = (len(code), None, lines, name)
if isinstance(FAILED, SyntaxError) and FAILED.text is None and FAILED.filename in SOURCES:
    # Errors that the compiler finds after the parser have no source line: it looks for the line in a file.
    FAILED.text = linecache.getline(FAILED.filename, FAILED.lineno or 0) or None
if sys.excepthook is sys.__excepthook__:
    if getattr(sys, "stderr", None) is not None:
        print("".join(traceback.format_exception(FAILED)).removesuffix("\n") + suggestion(), file=sys.stderr)
else:
    try:
        sys.excepthook(type(FAILED), FAILED, FAILED.__traceback__)
    except Exception as hook:
        print("Error in sys.excepthook:", file=sys.stderr)
        traceback.print_exception(hook.with_traceback(hook.__traceback__.tb_next))
        print("\nOriginal exception was:", file=sys.stderr)
        traceback.print_exception(FAILED)

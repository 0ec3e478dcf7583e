# Runs programs that the agent sends on descriptor 3; what comes there is described in interpreter.rs.
# It may be started long before the first one comes. Every line here, and every import, is paid for by
# every program: what only a failed one needs stands in failure.py, what only an interpreter that is kept
# needs in keep.py. `os` and `sys` are loaded anyway.
import os
import sys


def receive():
    data = b""
    need = end = 0
    while len(data) < need or not end:
        more = os.read(3, 65536)
        if not more:
            # The agent is gone.
            os._exit(0)
        data += more
        if not end:
            end = data.find(b"\n") + 1
            if end:
                mode, seed, size, code = data[:end].split()
                size = end + int(size)
                need = size + int(code)
    return mode, int(seed, 16), data[end:size], data[size:]


def new_main(code, name):
    main = type(sys)("__main__")
    # There is no file: this is where tracebacks and `inspect` find the program's lines.
    main.__loader__ = type(sys)("loader")
    main.__loader__.get_source = lambda _=None: code.decode("utf-8", "replace")
    main.__file__ = os.getcwd() + "/" + name
    sys.modules["__main__"] = main
    return main


def show(failed):
    # `failure.py` uses FAILED and SOURCES.
    try:
        with open(HERE + "/failure.py") as file:
            exec(file.read(), {"FAILED": failed, "SOURCES": SOURCES, "sys": sys})
    except OSError:
        sys.__excepthook__(type(failed), failed, failed.__traceback__)
    return 130 if isinstance(failed, KeyboardInterrupt) else 1


def status(exit):
    if exit.code is None:
        return 0
    if isinstance(exit.code, int):
        return exit.code & 0xFF
    print(exit.code, file=sys.stderr)
    return 1


def finish(code):
    # The end of a program as the interpreter does it, but for taking its own modules apart, which costs
    # more than all the rest: threads, atexit, the program's own objects, its output.
    global MAIN
    try:
        if "threading" in sys.modules:
            sys.modules["threading"]._shutdown()
    except BaseException as error:
        # An interrupt ends the wait for threads.
        sys.__excepthook__(type(error), error.with_traceback(None), None)
    import atexit
    import gc

    atexit._run_exitfuncs()
    # Twice, as the interpreter does: the first puts files in an order in which they can be written out.
    # What `__del__` and `finally` need is there until the last of them has run. Its own modules go too:
    # those that lie beside no library.
    gc.collect()
    MAIN = None
    for name in [name for name in sys.modules if name not in LOADED]:
        file = getattr(sys.modules[name], "__file__", None) or sys.prefix
        if not file.startswith((sys.prefix, sys.base_prefix)):
            del sys.modules[name]
    sys.modules.pop("__main__", None)
    gc.collect()
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not getattr(stream, "closed", False):
                stream.flush()
        except Exception:
            code = code or 120
    for stream in (sys.__stdout__, sys.__stderr__):
        try:
            stream.flush()
        except Exception:
            pass
    os._exit(code)


HERE = os.path.dirname(__file__)
SOURCES = {}
sys.argv[:] = ["main.py"]
sys.path[0] = os.getcwd()
sys.stdout.reconfigure(line_buffering=True)
MESSAGE = receive()
if MESSAGE[0] != b"o":
    exec(open(HERE + "/keep.py").read())
    MESSAGE = keep(MESSAGE)
CODE = MESSAGE[3]
LOADED = set(sys.modules)
MAIN = new_main(CODE, "main.py")
SOURCES["main.py"] = CODE
# This tells the agent that the program begins.
os.close(3)
FAILED = None
RESULT = 0
try:
    exec(compile(CODE, "main.py", "exec", dont_inherit=True), MAIN.__dict__)
except SystemExit as exit:
    RESULT = status(exit)
except BaseException as error:
    FAILED = error.with_traceback(error.__traceback__.tb_next)
if FAILED is not None:
    RESULT = show(FAILED)
    FAILED = None
finish(RESULT)

# Runs programs that the agent sends on descriptor 3, and reports on descriptor 4 when they start and end. Both
# formats are described in interpreter.rs. It may start long before the first program arrives. Every program pays
# for every line here, and a restored VM must translate everything that is executed between a message and its
# program. So all preparations are made before; failure.py contains the code that only a failed program needs, and
# keep.py the code that only a kept interpreter needs.
import atexit
import gc
import os
import sys

# High numbers leave the low ones for the program's own files, if so many descriptors are allowed.
RESULTS, MESSAGES, WORDS = 253, 254, 255
try:
    os.dup2(3, MESSAGES, False)
    os.dup2(4, WORDS, False)
    os.dup2(5, RESULTS, False)
    os.closerange(3, 6)
except OSError:
    MESSAGES, WORDS, RESULTS = 3, 4, 5
    for descriptor in (3, 4, 5):
        os.set_inheritable(descriptor, False)


def more(size):
    data = os.read(MESSAGES, size)
    if not data:
        # The agent is gone.
        os._exit(0)
    return data


def receive():
    data = more(16384)
    while len(data) < 30:
        data += more(16384)
    environment = 30 + int.from_bytes(data[18:22])
    arguments = environment + int.from_bytes(data[26:30])
    end = arguments + int.from_bytes(data[22:26])
    while len(data) < end:
        data += more(65536)
    if arguments > environment:
        sys.argv[1:] = os.fsdecode(data[environment:arguments - 1]).split("\0")
    return data[:2], int.from_bytes(data[2:18]), data[30:environment], data[arguments:]


def say(word):
    try:
        os.write(WORDS, word)
    except OSError:
        # The program has closed it. The agent notices the end of the process.
        pass


def forked():
    # A child of the program is not the agent's interpreter: it ends with its program and reports nothing.
    global IS_CHILD
    IS_CHILD = True
    for descriptor in (MESSAGES, WORDS, RESULTS):
        try:
            os.close(descriptor)
        except OSError:
            pass


def new_main(name):
    main = type(sys)("__main__")
    # There is no file. Tracebacks and `inspect` find the program's lines here.
    main.__loader__ = type(sys)("loader")
    main.__loader__.get_source = lambda _=None: SOURCES.get(name, b"").decode("utf-8", "replace")
    # With this name, processes that `multiprocessing` spawns do not look for its file either.
    main.__spec__ = type(sys.__spec__)("__main__", main.__loader__)
    main.__file__ = os.getcwd() + "/" + name
    sys.modules["__main__"] = main
    return main


def lay_out():
    # Creates everything that a program needs except its code.
    global MAIN, LOADED
    MAIN = new_main("main.py")
    LOADED = set(sys.modules)


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
    # Ends a program as the interpreter does: threads, atexit, the program's own objects, its output. Only the
    # interpreter's own modules are not torn down, because that costs more than all the rest.
    global MAIN
    threading = sys.modules.get("threading")
    try:
        if threading and (len(threading._active) > 1 or threading._threading_atexits):
            threading._shutdown()
    except BaseException as error:
        # An interrupt ends the wait for threads.
        sys.__excepthook__(type(error), error.with_traceback(None), None)
    atexit._run_exitfuncs()
    # Collect twice, as the interpreter does: the first time puts files in an order in which they can be flushed.
    # Objects that `__del__` and `finally` need exist until the last of them has run. The program's own modules
    # are removed too: those that are not in a library directory.
    gc.collect()
    MAIN = None
    if not sys.modules.keys() <= LOADED:
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
            if stream not in (sys.stdout, sys.stderr):
                stream.flush()
        except Exception:
            pass
    # A child that was forked without this interpreter's knowledge is not the agent's interpreter either.
    if not IS_CHILD and os.getpid() == PROCESS:
        say(b"%d\n" % code if code else b"0\n")
    os._exit(code)


HERE = os.path.dirname(__file__)
SOURCES = {}
IS_CHILD = False
PROCESS = os.getpid()
os.register_at_fork(after_in_child=forked)
sys.argv[:] = ["main.py"]
sys.path[0] = os.getcwd()
sys.stdout.reconfigure(line_buffering=True)
lay_out()
MESSAGE = receive()
# Reports to the agent that the program starts.
say(b"r\n")
if MESSAGE[0] not in (b"o\0", b"o\2") or MESSAGE[2]:
    exec(open(HERE + "/keep.py").read())
    MESSAGE = keep(MESSAGE)
CODE = SOURCES["main.py"] = MESSAGE[3]
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

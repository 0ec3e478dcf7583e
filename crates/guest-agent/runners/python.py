# Waits inside Python for the programs that the agent sends on descriptor 3, and reports on descriptor 4 when they start
# and end. Both formats are described in interpreter.rs. The agent starts `python3 /home/user/main.py` with a PYTHONPATH
# on which this file is `sitecustomize`, so it is imported before Python opens the program's file. For a one-shot program
# it prepares the process and returns: Python itself then runs the file and ends as it always does. keep.py contains
# the code for everything else: preparations, contexts, displayed values.
#
# Every program pays for every line here, and a restored VM must translate everything that is executed between a message
# and its program. So all preparations are made before the message.
import _weakref
import atexit
import gc
import io
import os
import site
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

# Length of a message before its sections, in bytes.
HEAD = 30


def more(size):
    data = os.read(MESSAGES, size)
    if not data:
        # The agent is gone.
        os._exit(0)
    return data


def receive():
    data = more(16384)
    while len(data) < HEAD:
        data += more(16384)
    variables = HEAD + int.from_bytes(data[18:22])
    arguments = variables + int.from_bytes(data[26:30])
    end = arguments + int.from_bytes(data[22:26])
    while len(data) < end:
        data += more(65536)
    return (
        data[:2],
        int.from_bytes(data[2:18]),
        data[HEAD:variables],
        data[variables:arguments],
        data[arguments:end],
    )


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


class Unbuffered(io.BufferedWriter):
    # Writes at once, after what standard output still holds: both arrive in the order in which they were printed.
    def write(self, data):
        try:
            STDOUT().flush()
        except Exception:
            # It is closed, or a signal handler has interrupted its flush.
            pass
        count = super().write(data)
        self.flush()
        return count


def order_streams():
    # Lines are sent when they are complete, as to a terminal.
    global STDOUT
    old = sys.stderr
    if sys.stdout is None or old is None:
        return
    # Python writes what it holds when it drops the last reference to it.
    STDOUT = _weakref.ref(sys.stdout)
    sys.stdout.reconfigure(line_buffering=True)
    raw = io.FileIO(2, "w", closefd=False)
    raw.name = "<stderr>"
    stream = io.TextIOWrapper(Unbuffered(raw), old.encoding, old.errors, "\n", True, True)
    stream.mode = "w"
    sys.stderr = sys.__stderr__ = stream


def leave():
    # Runs as the last function of `atexit`. Afterwards Python removes all modules, which takes longer than everything
    # else that a short program does. If it is certain how the program has ended, this does what matters of it.
    if IS_ONCE:
        # The runner ends this process.
        return
    try:
        code = end_of_program()
    except Exception:
        code = None
    if code is not None:
        tear_down(code)
    try:
        gc.collect()
        keep_modules()
    except Exception:
        # The program has changed something that this needs. Python then ends more slowly.
        pass


def end_of_program():
    # Returns the exit code, or None if Python must find it. When the program's file has ended, Python removes its name
    # from the main module. Before that, only `sys.exit` gets here.
    main = vars(sys.modules["__main__"])
    if "__file__" in main or "__cached__" in main or main.get("__name__") != "__main__" or "__loader__" not in main:
        return None
    if not hasattr(sys, "last_value"):
        return 0
    # The main module has failed at the instruction that it executed last, unless the program has set this itself.
    trace = sys.last_traceback
    if trace is None or isinstance(sys.last_value, KeyboardInterrupt):
        return None
    return 1 if trace.tb_frame.f_lasti == trace.tb_lasti and trace.tb_frame.f_globals is main else None


def tear_down(code):
    # Collect twice, as the interpreter does: the first time puts files in an order in which they can be flushed.
    # Objects that `__del__` and `finally` need exist until the last of them has run. The program's own modules
    # are removed too: those that are not in a library directory.
    gc.collect()
    for name in ("last_type", "last_value", "last_traceback"):
        vars(sys).pop(name, None)
    if not sys.modules.keys() <= LOADED:
        for name in [name for name in sys.modules if name not in LOADED]:
            if not is_library(sys.modules[name]):
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
    flush_c()
    # A child that was forked without this interpreter's knowledge is not the agent's interpreter either.
    if not IS_CHILD and os.getpid() == PROCESS:
        say(b"%d\n" % code if code else b"0\n")
    os._exit(code)


def keep_modules():
    # Modules of libraries have no objects that the program could miss at its end. They are taken out of the list, and
    # a reference that the collector does not see keeps them alive.
    modules = sys.modules
    for name in [name for name in modules if name not in NEVER_KEPT]:
        if name in LOADED or is_library(modules[name]):
            KEPT.append(modules.pop(name))


def flush_c():
    # What extension modules and `ctypes` have printed by C's stdio. The modules of a template print nothing.
    if sys.modules.keys() <= LOADED:
        return
    if "_ctypes" not in sys.modules and not any(map(is_foreign, sys.modules)):
        return
    try:
        import ctypes

        ctypes.CDLL(None).fflush(None)
    except Exception:
        # This Python has no ctypes.
        pass


def is_foreign(name):
    if name in LOADED:
        return False
    file = getattr(sys.modules[name], "__file__", None)
    return bool(file) and file.endswith(".so") and "/lib-dynload/" not in file


def lay_out():
    # Everything that exists now is not the program's, and collections skip it. The main module is replaced by an equal
    # one that they do not skip, because the end of a program is the end of what that module holds.
    global LOADED
    gc.freeze()
    LOADED = frozenset(sys.modules)
    main = type(sys)("__main__")
    vars(main).update(vars(sys.modules["__main__"]), __annotations__={})
    sys.modules["__main__"] = main


def is_library(module):
    file = getattr(module, "__file__", None)
    return not file or file.startswith(LIBRARIES)


def set_arguments(text):
    # The first one is the name of the program's file, in the directory of the one that this interpreter was started for.
    sys.argv[1:] = os.fsdecode(text[:-1]).split("\0")[1:]
    sys.orig_argv[2:] = sys.argv[1:]


def skip_usercustomize():
    site.execusercustomize = EXECUSERCUSTOMIZE


def remove_traces():
    # Everything that shows how the agent starts this interpreter.
    directory = os.path.dirname(__file__)
    path = os.environ.get("PYTHONPATH", "")
    if path.startswith(directory + ":"):
        os.environ["PYTHONPATH"] = path[len(directory) + 1 :]
    else:
        os.environ.pop("PYTHONPATH", None)
    if directory in sys.path:
        sys.path.remove(directory)
    sys.path_importer_cache.pop(directory, None)
    for name in ("site", "sitecustomize"):
        # Threads that import them must not wait for the end of their import.
        sys.modules[name].__spec__._initializing = False


def run_customizations():
    # Runs those of this system in this one's place.
    del sys.modules["sitecustomize"]
    site.execsitecustomize()
    if site.ENABLE_USER_SITE:
        site.execusercustomize()
        site.execusercustomize = skip_usercustomize


HERE = os.path.dirname(os.path.dirname(__file__))
PROGRAM = sys.argv[0]
HOME = os.path.dirname(PROGRAM)
NAME = os.fsencode(os.path.basename(PROGRAM)) + b"\0"
IS_CHILD = False
# The runner executes a program itself, and the process ends with it.
IS_ONCE = False
PROCESS = os.getpid()
EXECUSERCUSTOMIZE = site.execusercustomize
LIBRARIES = tuple({sys.prefix + "/", sys.base_prefix + "/"})
NEVER_KEPT = frozenset({"__main__", "builtins", "sys"})
# Refers to itself, and belongs to the objects that the collector skips.
KEPT = []
KEPT.append(KEPT)
atexit.register(leave)
os.register_at_fork(after_in_child=forked)
remove_traces()
run_customizations()
order_streams()
# Python asks whether the program's file is a directory or an archive. This is the answer that it remembers.
sys.path_importer_cache[PROGRAM] = None
lay_out()
try:
    MESSAGE = receive()
    # Reports to the agent that the program starts.
    say(b"r\n")
    if MESSAGE[0] not in (b"o\0", b"o\2") or MESSAGE[2] or not MESSAGE[3].startswith(NAME):
        exec(compile(open(HERE + "/keep.py").read(), HERE + "/keep.py", "exec"))
        keep(MESSAGE)
    else:
        set_arguments(MESSAGE[3])
except KeyboardInterrupt:
    # Ends as any Python that is interrupted before its program starts.
    import _signal

    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    os.kill(os.getpid(), _signal.SIGINT)
del MESSAGE
if "sitecustomize" not in sys.modules:
    # There is no other: `site` takes this for a missing module.
    raise ImportError(name="sitecustomize")

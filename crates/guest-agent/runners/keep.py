# Code for an interpreter that outlives an exec, or whose exec needs more than to run. Executed by python.py.
import _contextvars
import _signal
import functools
import linecache
import traceback
from _frozen_importlib_external import SourceFileLoader

# Bits of the flags in a message.
SHOWN, FED = 1, 2
# A flag of `compile`: `await` is allowed at the top level. A flag of code: calling it creates a coroutine.
TOP_LEVEL_AWAIT, COROUTINE = 0x2000, 0x80


def words(seed):
    return [seed >> shift & 0xFFFFFFFF for shift in (0, 32, 64, 96)]


# How to reseed each module, if it is loaded, in a process whose state may have been copied to other VMs. An integer
# is the cheapest seed.
RESEEDS = {
    "random": lambda module, seed: module.seed(seed),
    "numpy.random": lambda module, seed: module.seed(words(seed)),
    "_ssl": lambda module, seed: module.RAND_add(seed.to_bytes(16, "little"), 16.0),
    # The package `cryptography` contains its own OpenSSL.
    "cryptography.hazmat.bindings._rust": lambda module, seed: module._openssl.lib.RAND_add(
        seed.to_bytes(16, "little"), 16, 16.0
    ),
    "multiprocessing.process": lambda module, seed: setattr(
        module.current_process(), "authkey", os.urandom(32)
    ),
}
# Caches of modules that depend on randomness or on variables.
CACHES = {
    "tempfile": ("_name_sequence", "tempdir"),
    "uuid": ("_node", "_last_timestamp"),
}


def forget_caches():
    for name, kept in CACHES.items():
        module = sys.modules.get(name)
        if module:
            vars(module).update(dict.fromkeys(kept))


def reseeders():
    # Returns the functions to call with a seed, one for each loaded module of RESEEDS.
    acts = []
    for name, act in RESEEDS.items():
        module = sys.modules.get(name)
        if module:
            acts.append(functools.partial(act, module))
    return acts


def primed_reseeders():
    # The same for the modules that the primer has loaded; seeds go to the generator without a call in between.
    acts = reseeders()
    generator = getattr(sys.modules.get("random"), "_inst", None)
    if generator:
        generator.gauss_next = None
        acts[0] = super(type(generator), generator).seed
    return acts


def reseed(acts, seed):
    for act in acts:
        try:
            act(seed)
        except Exception:
            # It is another module with this name.
            pass


def apply_zone(names):
    if "TZ" in names:
        import time

        time.tzset()


def set_environment(text):
    # Returns the previous environment and, if the directory cannot be entered, a program that reports it.
    pairs = dict(pair.split("=", 1) for pair in os.fsdecode(text[:-1]).split("\0"))
    directory = pairs.pop("", None)
    before = {name: os.environ.get(name) for name in pairs}
    os.environ.update(pairs)
    apply_zone(pairs)
    if directory is None:
        return before, None
    try:
        before[""] = here()
        os.chdir(os.path.join(os.path.dirname(PROGRAM), directory))
    except OSError as error:
        line = f"cannot enter the working directory {directory}: {error.strerror}"
        return before, f"raise SystemExit({line!r})".encode("utf-8", "surrogateescape")
    return before, None


def here():
    try:
        return os.getcwd()
    except OSError:
        # It was removed.
        return None


def restore_environment(before):
    directory = before.pop("", None)
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    apply_zone(before)
    if directory is not None:
        try:
            os.chdir(directory)
        except OSError:
            # It was removed.
            pass


def new_main(name):
    # A module for a preparation, which leaves nothing in the real one.
    main = type(sys)("__main__")
    main.__file__ = name
    main.__builtins__ = sys.modules["builtins"]
    return main


def show(failed):
    if IS_ONCE and sys.excepthook is sys.__excepthook__ and has_file(failed):
        sys.__excepthook__(type(failed), failed, failed.__traceback__)
        return 130 if isinstance(failed, KeyboardInterrupt) else 1
    # `failure.py` uses FAILED and SOURCES.
    try:
        with open(HERE + "/failure.py") as file:
            exec(file.read(), {"FAILED": failed, "SOURCES": SOURCES, "sys": sys})
    except OSError:
        sys.__excepthook__(type(failed), failed, failed.__traceback__)
    return 130 if isinstance(failed, KeyboardInterrupt) else 1


def has_file(failed):
    # Python finds the lines of a traceback in the program's file. If the agent has not written it, this does.
    code = SOURCES.get(PROGRAM)
    if code is None:
        return True
    if isinstance(failed, SyntaxError) and failed.text is None and failed.filename == PROGRAM:
        # The compiler has looked for the line in the file.
        lines = code.decode("utf-8", "replace").splitlines(keepends=True)
        failed.text = "".join(lines[(failed.lineno or 0) - 1 :][:1]) or None
    try:
        file = os.open(PROGRAM, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(file, "wb") as file:
            if not os.fstat(file.fileno()).st_size:
                return file.write(code) == len(code)
    except OSError:
        pass
    return False


def status(exit):
    if exit.code is None:
        return 0
    if isinstance(exit.code, int):
        return exit.code & 0xFF
    print(exit.code, file=sys.stderr)
    return 1


def finish(code):
    # Ends a program as the interpreter does: threads, `atexit`, then the rest.
    threading = sys.modules.get("threading")
    try:
        if threading and (len(threading._active) > 1 or threading._threading_atexits):
            threading._shutdown()
    except BaseException as error:
        # An interrupt ends the wait for threads.
        sys.__excepthook__(type(error), error.with_traceback(None), None)
    atexit._run_exitfuncs()
    tear_down(code)


def tell_lines(code, name):
    # Registers the lines that tracebacks and `inspect` show for code that is not in a file.
    SOURCES[name] = code
    lines = code.decode("utf-8", "replace").splitlines(keepends=True)
    linecache.cache[name] = (len(code), None, lines, name)
    if len(SOURCES) > 1000:
        forget_lines(next(iter(SOURCES)))


def forget_lines(name):
    SOURCES.pop(name, None)
    linecache.cache.pop(name, None)


def opened(name):
    number, mode, encoding, errors = STREAMS[name]
    return open(number, mode, 1 if number else -1, encoding, errors, closefd=False)


def restore_streams():
    # Flushes the program's output, and reopens for the next program the streams that it has closed.
    if IS_ONCE:
        return
    for name in ("stdout", "stderr"):
        try:
            getattr(sys, name).flush()
        except BaseException:
            try:
                stream = getattr(sys, name, None)
                if stream is None or getattr(stream, "closed", False):
                    setattr(sys, name, opened(name))
            except BaseException:
                # Its descriptor is closed as well.
                pass


def complain(line):
    try:
        os.write(2, line.encode("utf-8", "replace") + b"\n")
    except OSError:
        pass


def note_interrupt(*_):
    # An interrupt while no program runs belongs to the program whose message has arrived, because the agent sends
    # the message first. If none has arrived, it is ignored.
    global INTERRUPTED
    import select

    INTERRUPTED = READ[0] != 0 or bool(select.select([MESSAGES], [], [], 0)[0])


def more_noting(_):
    # Like `more`, but READ shows that bytes have arrived even before it returns.
    count = os.readv(MESSAGES, [READ])
    if not count:
        os._exit(0)
    return bytes(memoryview(READ)[:count])


def run_script(code, name, namespace):
    exec(compile(code, name, "exec", dont_inherit=True), namespace)


def compile_piece(code, name, flags):
    # Magics are no Python: code that can be compiled has none.
    try:
        return compile(code, name, "exec", flags, True)
    except SyntaxError as error:
        text = code if isinstance(code, str) else code.decode("utf-8", "replace")
        changed = magics()["transform"](text)
        if changed == text:
            raise
        try:
            return compile(changed, name, "exec", flags, True)
        except SyntaxError as other:
            # The error of the piece without its magics, or that of the piece if they are not the reason.
            raise other.with_traceback(None) from None


def magics():
    if not MAGICS:
        MAGICS.update(globals())
        with open(HERE + "/magics.py") as file:
            exec(compile(file.read(), file.name, "exec"), MAGICS)
    return MAGICS


def get_ipython():
    """Returns an object with a small part of IPython's InteractiveShell."""
    return magics()["SHELL"]


def run_in_context(code, name, namespace):
    compiled = compile_piece(code, name, TOP_LEVEL_AWAIT)
    returned = eval(compiled, namespace)
    if compiled.co_flags & COROUTINE:
        awaited(returned)


def awaited(coroutine):
    # Tasks that it leaves continue when the next coroutine is awaited.
    global LOOP
    import asyncio
    import contextvars

    if LOOP is None or LOOP.get_loop().is_closed():
        LOOP = asyncio.Runner()
    context = contextvars.copy_context()
    try:
        return LOOP.run(coroutine, context=context)
    except KeyboardInterrupt as interrupt:
        # The other exception knows the awaited code.
        cancelled = interrupt.__context__
        if not isinstance(cancelled, asyncio.CancelledError):
            raise
        raise interrupt.with_traceback(cancelled.__traceback__) from None
    finally:
        for variable, value in context.items():
            variable.set(value)


def trimmed(error):
    # Removes the calls that are not the program's from the traceback.
    trace = error.__traceback__
    while trace is not None:
        names = trace.tb_frame.f_globals
        if names is not globals() and names is not MAGICS and not str(names.get("__name__")).startswith("asyncio."):
            break
        trace = trace.tb_next
    return error.with_traceback(trace)


def walk_own_stack(frame):
    # What `traceback` shows of the stack ends where the runner begins.
    for frame, line in WALK_STACK(frame):
        if frame.f_globals is globals():
            break
        yield frame, line


def evaluate(act, code, name, namespace):
    # Returns the exit code. The program gets interrupts only while it runs.
    global INTERRUPT
    failed = None
    result = 0
    try:
        try:
            _signal.signal(_signal.SIGINT, INTERRUPT)
            if INTERRUPTED:
                raise KeyboardInterrupt
            act(code, name, namespace)
        except SystemExit as exit:
            result = status(exit)
        except BaseException as error:
            failed = trimmed(error)
        handler = _signal.signal(_signal.SIGINT, note_interrupt)
        if handler is not None:
            INTERRUPT = handler
    except BaseException as late:
        _signal.signal(_signal.SIGINT, note_interrupt)
        failed = late.with_traceback(None)
        failed.__suppress_context__ = True
    if failed is not None and type(failed) is MAGICS.get("UsageError"):
        complain(f"UsageError: {failed}")
        result = 1
    elif failed is not None:
        result = report_failure(failed)
    restore_streams()
    return result


def report_failure(failed):
    restore_streams()
    try:
        return show(failed)
    except SystemExit as exit:
        # `sys.excepthook` has chosen the code.
        return status(exit)
    except BaseException:
        # A method of the exception failed, or `sys.excepthook` did.
        complain(f"{type(failed).__name__}, which could not be shown")
        return 1


def runner(flags):
    # Returns the function that runs a program, with or without displaying its last value.
    if not flags & SHOWN:
        return run_in_context
    load_display()
    return run_shown


def load_display():
    if "run_shown" not in globals():
        exec(compile(open(HERE + "/display.py").read(), HERE + "/display.py", "exec"), globals())


def once(code, flags, arguments):
    # Runs a program that Python does not run itself.
    global IS_ONCE
    IS_ONCE = True
    skip_usercustomize()
    if arguments[:1] == b"\0" and not flags & SHOWN:
        finish(run_without_file(code, arguments))
    result = run_once(code, flags, arguments)
    if flags & SHOWN:
        end_display()
    _signal.signal(_signal.SIGINT, INTERRUPT)
    if LOOP is not None:
        LOOP.close()
    finish(result)


class Lines:
    # The lines of the program, for warnings. Most programs cause none.
    def __len__(self):
        return len(self.get())

    def __getitem__(self, index):
        return self.get()[index]

    @staticmethod
    def get():
        return SOURCES[PROGRAM].decode("utf-8", "replace").splitlines(keepends=True)


def run_without_file(code, arguments):
    # A program that cannot see its file and its stack, which is nearly every short program: this takes the least time.
    if len(arguments) > 1:
        set_arguments(arguments)
    SOURCES[PROGRAM] = code
    linecache.cache[PROGRAM] = LINES_OF_PROGRAM
    sys.path.insert(0, HOME)
    # The calls below the program must not count.
    sys.setrecursionlimit(sys.getrecursionlimit() + DEPTH)
    try:
        exec(compile(code, PROGRAM, "exec", dont_inherit=True), vars(sys.modules["__main__"]))
        return 0
    except SystemExit as exit:
        return status(exit)
    except BaseException as error:
        failed = error.with_traceback(error.__traceback__.tb_next)
    return report_failure(failed)


def run_once(code, flags, arguments):
    # Its values are displayed, or its file is not the one that this interpreter was started for, or none could be written.
    set_arguments(arguments)
    name = arguments[: arguments.index(0)]
    main = vars(sys.modules["__main__"])
    if name:
        name = sys.argv[0] = sys.orig_argv[1] = os.path.join(HOME, os.fsdecode(name))
        main["__loader__"] = SourceFileLoader("__main__", name)
    else:
        name = PROGRAM
        tell_lines(code, name)
    main["__file__"], main["__cached__"] = name, None
    if not sys.flags.safe_path:
        sys.path.insert(0, os.path.dirname(name))
    result = evaluate(runner(flags) if flags & SHOWN else run_script, code, name, main)
    # Python removes both before the functions of `atexit` run.
    main.pop("__file__", None)
    main.pop("__cached__", None)
    return result


def depth():
    # The number of calls below a program that `once` runs.
    # Before Python 3.12, calls of C functions count too.
    frame, count = sys._getframe(), 1 if sys.version_info >= (3, 12) else 5
    while frame is not None:
        frame, count = frame.f_back, count + 1
    return count


def prepare(code, flags):
    main = new_main("main.py")
    real = sys.modules["__main__"]
    sys.modules["__main__"] = main
    tell_lines(code, "main.py")
    act = runner(flags) if flags & SHOWN else run_script
    # What it sets in the current context does not stay.
    result = _contextvars.copy_context().run(evaluate, act, code, "main.py", vars(main))
    main.__dict__.clear()
    sys.modules["__main__"] = real
    forget_lines("main.py")
    return result


def settle():
    # Everything that exists after a preparation stays. Collections that skip it are cheap, and leave its pages
    # shared by all VMs of a template.
    load_display()
    forget_caches()
    gc.collect()
    # Modules that a program adds do not stay: they are torn down with it.
    lay_out()
    _signal.signal(_signal.SIGINT, INTERRUPT)


def next_message():
    while True:
        try:
            return receive()
        except BaseException:
            # A signal handler of the program raised this, unless the program has closed the descriptor.
            try:
                os.fstat(MESSAGES)
            except OSError:
                os._exit(1)


def enter_context():
    # Prepares the main module as that of an interactive session: it has no file, and modules are found in the current
    # directory, wherever it is.
    sys.argv[:] = [""]
    skip_usercustomize()
    sys.modules["builtins"].get_ipython = get_ipython
    if not sys.flags.safe_path:
        sys.path.insert(0, "")
    return vars(sys.modules["__main__"])


def keep(message):
    # Serves execs after which this process continues. Returns when Python can run the program of a message.
    global INTERRUPTED, more
    kept, count, acts = None, 0, None
    while True:
        mode, seed, environment, arguments, code = message
        if seed:
            if acts is None:
                forget_caches()
                acts = reseeders()
            reseed(acts, seed)
        before = None
        if environment:
            before, instead = set_environment(environment)
            if instead:
                code = instead
                # It has no file.
                arguments = b"\0" if mode[:1] == b"o" else b""
            elif mode[:1] == b"o" and "" in before:
                # Modules of the working directory can be imported too.
                sys.path.insert(0, os.getcwd())
        letter, flags = mode[:1], mode[1]
        if letter == b"o":
            if flags & SHOWN or not arguments.startswith(NAME):
                once(code, flags, arguments)
            set_arguments(arguments)
            return
        if flags & FED:
            stdin, sys.stdin = sys.stdin, opened("stdin")
            fed = sys.stdin
        if letter == b"p":
            result = prepare(code, flags)
        else:
            count += 1
            name = f"exec-{count}.py"
            if kept is None:
                kept = enter_context()
                more = more_noting
            if arguments:
                sys.argv[1:] = os.fsdecode(arguments[:-1]).split("\0")
            tell_lines(code, name)
            result = evaluate(runner(flags), code, name, kept)
            flush_c()
            # It may have loaded other modules.
            acts = None
        if IS_CHILD:
            finish(result)
        if flags & SHOWN:
            end_display()
        if flags & FED and sys.stdin is fed:
            # This also drops the input that was read ahead.
            sys.stdin = stdin
        if before:
            restore_environment(before)
        if letter == b"p":
            settle()
            acts = primed_reseeders()
        INTERRUPTED = False
        READ[0] = 0
        try:
            os.write(WORDS, b"%d\n" % result)
        except OSError:
            complain("the program has closed descriptors from 253 to 255: the state of its context is lost")
            os._exit(result)
        message = next_message()


INTERRUPT = _signal.getsignal(_signal.SIGINT)
INTERRUPTED = False
# The bytes that were read last. The first byte is 0 while no message has arrived.
READ = bytearray(b"\1" * 65536)
LOOP = None
# The names in magics.py, when it is loaded.
MAGICS = {}
# The code of programs that are not in a file, by name.
SOURCES = {}
DEPTH = depth()
LINES_OF_PROGRAM = (0, None, Lines(), PROGRAM)
WALK_STACK = traceback.walk_stack
traceback.walk_stack = walk_own_stack
STREAMS = {
    "stdin": (0, "r", sys.stdin.encoding, sys.stdin.errors),
    "stdout": (1, "w", sys.stdout.encoding, sys.stdout.errors),
    "stderr": (2, "w", sys.stderr.encoding, sys.stderr.errors),
}

# What an interpreter needs that outlives an exec. Executed by python.py.
import _signal


def reseed(seed):
    # The state of this process may have been copied to another VM. An integer is the cheapest seed.
    loaded = sys.modules.get
    if loaded("random"):
        loaded("random").seed(seed)
    if loaded("numpy.random"):
        loaded("numpy.random").seed(seed & 0xFFFFFFFF)
    if loaded("_ssl"):
        loaded("_ssl").RAND_add(seed.to_bytes(16, "little"), 16.0)
    if loaded("tempfile"):
        loaded("tempfile")._name_sequence = None
    if loaded("uuid"):
        loaded("uuid")._node = loaded("uuid")._last_timestamp = None


def set_environment(text):
    pairs = [pair.split("=", 1) for pair in os.fsdecode(text).split("\0") if pair]
    before = [(name, os.environ.get(name)) for name, _ in pairs]
    os.environ.update(pairs)
    if any(name == "TZ" for name, _ in pairs):
        import time

        time.tzset()
    return before


def restore_environment(before):
    for name, value in before:
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def tell_lines(code, name):
    # What tracebacks show of code that is no file. Only where somebody can ask.
    linecache = sys.modules.get("linecache")
    if linecache:
        lines = code.decode("utf-8", "replace").splitlines(keepends=True)
        linecache.cache[name] = (len(code), None, lines, name)


def status(exit):
    if exit.code is None:
        return 0
    if isinstance(exit.code, int):
        return exit.code & 0xFF
    print(exit.code, file=sys.stderr)
    return 1


def evaluate(code, name, namespace):
    # Returns the exit code. An interrupt is the program's, and only while it runs.
    global INTERRUPT
    failed = None
    result = 0
    try:
        _signal.signal(_signal.SIGINT, INTERRUPT)
        exec(compile(code, name, "exec", dont_inherit=True), namespace)
    except SystemExit as exit:
        result = status(exit)
    except BaseException as error:
        failed = error.with_traceback(error.__traceback__.tb_next)
    INTERRUPT = _signal.signal(_signal.SIGINT, _signal.SIG_IGN) or INTERRUPT
    if failed is not None:
        result = show(failed)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            pass
    return result


def keep(message):
    # Serves execs that leave this process in place, and returns the first that does not.
    kept, count = None, 0
    while True:
        mode, seed, environment, code = message
        if seed:
            reseed(seed)
        before = set_environment(environment) if environment else ()
        if mode == b"o":
            _signal.signal(_signal.SIGINT, INTERRUPT)
            return message
        if mode == b"p":
            main = new_main(code, "main.py")
            tell_lines(code, "main.py")
            result = evaluate(code, "main.py", main.__dict__)
            main.__dict__.clear()
            if "linecache" in sys.modules:
                sys.modules["linecache"].cache.clear()
        else:
            count += 1
            name = f"exec-{count}.py"
            if kept is None:
                kept = new_main(code, name)
            SOURCES[name] = code
            if len(SOURCES) > 1000:
                del SOURCES[next(iter(SOURCES))]
            tell_lines(code, name)
            result = evaluate(code, name, kept.__dict__)
        if before:
            restore_environment(before)
        os.write(3, b"%d\n" % result)
        message = receive()


INTERRUPT = _signal.getsignal(_signal.SIGINT)
# Programs that this process starts must not have it.
os.set_inheritable(3, False)

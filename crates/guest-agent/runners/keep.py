# What an interpreter needs that outlives an exec. Executed by python.py.
import _signal
import functools


def words(seed):
    return [seed >> shift & 0xFFFFFFFF for shift in (0, 32, 64, 96)]


# What to do in a process whose state may have been copied to other VMs, where the module is loaded. An
# integer is the cheapest seed.
RESEEDS = {
    "random": lambda module, seed: module.seed(seed),
    "numpy.random": lambda module, seed: module.seed(words(seed)),
    "_ssl": lambda module, seed: module.RAND_add(seed.to_bytes(16, "little"), 16.0),
    "multiprocessing.process": lambda module, seed: setattr(
        module.current_process(), "authkey", os.urandom(32)
    ),
}
# What modules keep that depends on randomness or on variables.
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
    # What is to be called with a seed: what of RESEEDS is loaded.
    acts = []
    for name, act in RESEEDS.items():
        module = sys.modules.get(name)
        if module:
            acts.append(functools.partial(act, module))
    return acts


def primed_reseeders():
    # The same for what the primer has loaded, where there is no call between a seed and its generator.
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
            # It is another module of that name.
            pass


def apply_zone(names):
    if "TZ" in names:
        import time

        time.tzset()


def set_environment(text):
    pairs = dict(pair.split("=", 1) for pair in os.fsdecode(text[:-1]).split("\0"))
    before = {name: os.environ.get(name) for name in pairs}
    os.environ.update(pairs)
    apply_zone(pairs)
    return before


def restore_environment(before):
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    apply_zone(before)


def tell_lines(code, name):
    # What tracebacks and `inspect` show of code that is no file.
    SOURCES[name] = code
    linecache = sys.modules.get("linecache")
    if linecache:
        lines = code.decode("utf-8", "replace").splitlines(keepends=True)
        linecache.cache[name] = (len(code), None, lines, name)
    if len(SOURCES) > 1000:
        forget_lines(next(iter(SOURCES)))


def forget_lines(name):
    SOURCES.pop(name, None)
    linecache = sys.modules.get("linecache")
    if linecache:
        linecache.cache.pop(name, None)


def evaluate(code, name, namespace):
    # Returns the exit code. An interrupt is the program's, and only while it runs.
    global INTERRUPT
    failed = None
    result = 0
    try:
        try:
            _signal.signal(_signal.SIGINT, INTERRUPT)
            exec(compile(code, name, "exec", dont_inherit=True), namespace)
        except SystemExit as exit:
            result = status(exit)
        except BaseException as error:
            failed = error.with_traceback(error.__traceback__.tb_next)
        handler = _signal.signal(_signal.SIGINT, _signal.SIG_IGN)
        if handler is not None:
            INTERRUPT = handler
    except KeyboardInterrupt as late:
        _signal.signal(_signal.SIGINT, _signal.SIG_IGN)
        failed = late.with_traceback(None)
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
    kept, count, acts = None, 0, None
    while True:
        mode, seed, environment, code = message
        if seed:
            if acts is None:
                forget_caches()
                acts = reseeders()
            reseed(acts, seed)
        before = set_environment(environment) if environment else None
        if mode[:1] == b"o":
            return message
        if mode[:1] == b"p":
            main = new_main("main.py")
            tell_lines(code, "main.py")
            result = evaluate(code, "main.py", main.__dict__)
            main.__dict__.clear()
            main = None
            forget_lines("main.py")
            forget_caches()
            # What is there now stays. A collection that does not look at it is cheap, and leaves the pages
            # that it lies in shared by all VMs of a template.
            gc.collect()
            gc.freeze()
            # What a program adds does not: it is to be taken apart with it.
            lay_out()
            _signal.signal(_signal.SIGINT, INTERRUPT)
            acts = primed_reseeders()
        else:
            count += 1
            name = f"exec-{count}.py"
            if kept is None:
                kept = new_main(name)
            tell_lines(code, name)
            result = evaluate(code, name, kept.__dict__)
            # What it has loaded is not known.
            acts = None
        if IS_CHILD:
            sys.exit(result)
        if before:
            restore_environment(before)
        say(b"%d\n" % result)
        message = receive()


INTERRUPT = _signal.getsignal(_signal.SIGINT)

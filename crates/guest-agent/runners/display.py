# Displays values: that of the last expression, those passed to `display`, and figures. Executed by python.py if they
# are wanted. Each value is written to the descriptor for results as a line of JSON.
import _ast
import _thread
import builtins

ONLY_TREE = 0x400
# A larger line is replaced by this much of its text.
MOST_BYTES, MOST_TEXT = 8 << 20, 64 << 10
# Up to this size, a write to a pipe is atomic.
PIPE_BUF = 4096
KINDS = {
    "text/html": "_repr_html_",
    "text/markdown": "_repr_markdown_",
    "image/svg+xml": "_repr_svg_",
    "image/png": "_repr_png_",
    "image/jpeg": "_repr_jpeg_",
    "text/latex": "_repr_latex_",
    "application/json": "_repr_json_",
    "application/pdf": "_repr_pdf_",
}
# The module that matplotlib imports as its backend.
BACKEND = "_fumehood_figures"


def run_shown(code, name, namespace):
    begin_display()
    try:
        value = run_to_value(code, name, namespace)
        if value is not None:
            if name != sys.argv[0]:
                # The next program may use it.
                builtins._ = value
            # An open figure is displayed below.
            if not any(value is figure for figure in open_figures()):
                display(value)
    except KeyboardInterrupt:
        close_figures()
        raise
    except BaseException:
        show_figures()
        raise
    show_figures()


def run_to_value(code, name, namespace):
    # Returns the value of the last statement if it is an expression.
    tree = compile(code, name, "exec", ONLY_TREE | TOP_LEVEL_AWAIT, True)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], _ast.Expr) else None
    parts = [compile(tree, name, "exec", TOP_LEVEL_AWAIT, True)]
    if last is not None:
        parts.append(compile(_ast.Expression(last.value), name, "eval", TOP_LEVEL_AWAIT, True))
    if any(part.co_flags & COROUTINE for part in parts):
        return awaited(value_with_await(parts, namespace))
    for part in parts:
        value = eval(part, namespace)
    return value


async def value_with_await(parts, namespace):
    for part in parts:
        value = eval(part, namespace)
        if part.co_flags & COROUTINE:
            value = await value
    return value


def begin_display():
    global WANTED
    WANTED = True
    builtins.display = display
    if Figures not in sys.meta_path:
        sys.meta_path.insert(0, Figures)
    if "matplotlib.pyplot" in sys.modules:
        choose_backend()


def end_display():
    global WANTED
    WANTED = False
    if getattr(builtins, "display", None) is display:
        del builtins.display
    if not IS_CHILD:
        send_queued()


def display(*values):
    for value in values:
        if WANTED and not IS_CHILD:
            line = line_of(value)
            flush()
            send(line)
        else:
            print(repr(value))


def flush():
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            pass


def line_of(value):
    text = repr(value)
    data = shapes(value)
    size = len(text) + sum(map(raw_size, data.values()))
    if size <= MOST_BYTES:
        line = joined(text, data)
        size = len(line)
    if size > MOST_BYTES:
        complain(f"a value of more than {MOST_BYTES} bytes is shown as text, cut at {MOST_TEXT} bytes")
        cut = text[:MOST_TEXT].encode("utf-8", "replace")[:MOST_TEXT]
        line = joined(cut.decode("utf-8", "ignore"), {})
    return line


def raw_size(data):
    return len(data) if isinstance(data, (str, bytes)) else 0


def joined(text, data):
    pairs = [f'"text/plain":{quoted(text)}']
    for kind, value in data.items():
        try:
            shape = encoded(kind, value)
        except Exception:
            # The value should be JSON but is not.
            continue
        if shape is not None:
            pairs.append(f"{quoted(kind)}:{shape}")
    return ("{" + ",".join(pairs) + "}\n").encode("utf-8", "replace")


def quoted(text):
    from _json import encode_basestring

    return encode_basestring(text)


def encoded(kind, data):
    # Returns JSON, or None if the data does not fit the media type.
    if kind == "application/json" or kind.endswith("+json"):
        import json

        return json.dumps(data, ensure_ascii=False, allow_nan=False)
    if isinstance(data, str):
        return quoted(data)
    if isinstance(data, bytes) and not kind.startswith("text/") and not kind.endswith("+xml"):
        import binascii

        return quoted(binascii.b2a_base64(data, newline=False).decode())


def shapes(value):
    # Returns the representations that the value offers besides its text, by media type.
    data = asked(value, "_repr_mimebundle_", include=None, exclude=None)
    data = dict(data) if isinstance(data, dict) else {}
    for kind, name in KINDS.items():
        if kind not in data:
            data[kind] = asked(value, name)
    figures = sys.modules.get("matplotlib.figure")
    if figures and isinstance(value, figures.Figure):
        data["image/png"] = picture(value)
    given = {kind: shape for kind, shape in data.items() if isinstance(kind, str) and shape is not None}
    given.pop("text/plain", None)
    return given


def asked(value, name, **options):
    # Uses the method of the type, because a class itself is not such a value.
    try:
        if hasattr(type(value), name):
            given = getattr(value, name)(**options)
            # Some return metadata as well.
            return given[0] if isinstance(given, tuple) else given
    except Exception:
        pass


def send(line):
    # A line is never cut in two: a short one is written in one piece, and a thread is not interrupted by exceptions
    # that a signal handler raises.
    QUEUE.append(line)
    if len(line) > PIPE_BUF:
        sent = _thread.allocate_lock()
        sent.acquire()
        _thread.start_new_thread(send_queued, (sent.release,))
        sent.acquire()
    else:
        send_queued()


def send_queued(then=None):
    with SENDING:
        while QUEUE:
            rest = memoryview(QUEUE.pop(0))
            try:
                while rest:
                    rest = rest[os.write(RESULTS, rest) :]
            except OSError:
                complain("the program has closed the descriptor of its results")
    if then:
        then()


class Figures:
    # Finds the matplotlib backend, which is not in a module directory.
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "matplotlib.pyplot":
            choose_backend()
        if name == BACKEND:
            return type(sys.__spec__)(name, Figures)

    @staticmethod
    def create_module(spec):
        return None

    @staticmethod
    def exec_module(module):
        vars(module).update(show_figures=show_figures)
        with open(HERE + "/figures.py") as file:
            exec(compile(file.read(), file.name, "exec"), vars(module))


def choose_backend():
    # If the program or its environment has chosen a backend, it is a string and stays.
    try:
        settings = sys.modules["matplotlib"].rcParams
        if WANTED and not isinstance(dict.get(settings, "backend"), str):
            settings["backend"] = "module://" + BACKEND
    except Exception:
        # It is another module with this name.
        pass


def open_figures():
    helpers = sys.modules.get("matplotlib._pylab_helpers")
    return [manager.canvas.figure for manager in helpers.Gcf.get_all_fig_managers()] if helpers else []


def show_figures(figures=None):
    try:
        for figure in open_figures() if figures is None else figures:
            # Calls after `show` create an empty figure.
            if WANTED and not IS_CHILD and len(figure.get_children()) > 1:
                display(figure)
    finally:
        if WANTED:
            close_figures(figures)


def close_figures(figures=None):
    helpers = sys.modules.get("matplotlib._pylab_helpers")
    if helpers and figures is None:
        helpers.Gcf.destroy_all()
    elif helpers:
        for figure in figures:
            helpers.Gcf.destroy_fig(figure)


def picture(figure):
    import io

    file = io.BytesIO()
    figure.savefig(file, format="png", bbox_inches="tight")
    return file.getvalue()


WANTED = False
QUEUE = []
SENDING = _thread.allocate_lock()

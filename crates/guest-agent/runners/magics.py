# The part of IPython's syntax that contexts and displays know: `!command`, `%magic`, `%%magic`, `name?`. Executed by
# keep.py when code is no Python, so code that is Python is never changed. docs/guides/sessions.md describes it.
import builtins
import re
import subprocess


class UsageError(Exception):
    # Shown without a traceback.
    pass


class Lines(list):
    # The output of a command, as IPython returns it.
    n = nlstr = property("\n".join)
    s = spstr = property(" ".join)
    l = property(list)


class Shell:
    """What `get_ipython()` returns: a small part of IPython's InteractiveShell."""

    @property
    def user_ns(self):
        return vars(sys.modules["__main__"])

    def run_line_magic(self, name, line=""):
        """Runs `%name line`, after replacing `{expression}` and `$name` in the line."""
        magic = LINE_MAGICS.get(name)
        if magic is None:
            also = f" (but cell magic `%%{name}` exists)" if name in CELL_MAGICS else ""
            raise UsageError(f"Line magic function `%{name}` not found{also}. Known: {known(LINE_MAGICS, '%')}")
        return magic(self, self.var_expand(line))

    def run_cell_magic(self, name, line, cell):
        """Runs `%%name line` with the rest of the code."""
        magic = CELL_MAGICS.get(name)
        if magic is None:
            raise UsageError(f"Cell magic `%%{name}` not found. Known: {known(CELL_MAGICS, '%%')}")
        return magic(self, line, cell)

    def system(self, command):
        """Runs a command in bash; its output is this program's. `_exit_code` is its exit code."""
        flush_streams()
        ended = subprocess.run(["bash", "-c", self.var_expand(command)])
        self.user_ns["_exit_code"] = ended.returncode
        if ended.returncode and re.match(r"\s*(uv +)?pip3? ", command):
            hint_at_packages()

    def getoutput(self, command):
        """Runs a command in bash and returns the lines of its output."""
        flush_streams()
        ended = subprocess.run(
            ["bash", "-c", self.var_expand(command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.user_ns["_exit_code"] = ended.returncode
        return Lines(ended.stdout.splitlines())

    def run_cell(self, code):
        """Runs code like a piece of a context."""
        run_code(self.user_ns, transform(code))

    def var_expand(self, text):
        def value(match):
            try:
                return str(eval(match[1] or match[2], self.user_ns))
            except Exception:
                return match[0]

        return re.sub(r"(?<![{$])\{([^{}]+)\}|\$(?!\$)([A-Za-z_]\w*)", value, text)


def known(magics, sign):
    return ", ".join(sign + name for name in sorted(magics))


def flush_streams():
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            pass


def run_code(names, code, name="<magic>"):
    # Returns the value of the last statement if it is an expression.
    import ast

    tree = ast.parse(code, name)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, name, "exec"), names)
    return eval(compile(ast.Expression(last.value), name, "eval"), names) if last else None


def hint_at_packages():
    has_network = any(name != "lo" for name in os.listdir("/sys/class/net"))
    if not has_network:
        print(
            "This sandbox has no network, so nothing can be installed from inside. Give packages when it is created"
            " (`fumehood run -p NAME`, `packages=` in the SDK), or use `sandbox.install()`.",
            file=sys.stderr,
        )


def pip(shell, line):
    import shutil

    if shutil.which("pip"):
        shell.system("pip " + line)
    elif shutil.which("uv"):
        import site

        target = " --target " + site.getusersitepackages() if line.split()[:1] == ["install"] else ""
        shell.system("uv pip " + line + target)
    else:
        print("This guest has no pip.", file=sys.stderr)
        hint_at_packages()
    import importlib

    importlib.invalidate_caches()


def cd(shell, line):
    os.chdir(os.path.expanduser(line.strip().strip("'\"") or "~"))
    print(os.getcwd())


def env(shell, line):
    name, sign, value = line.partition("=")
    if not sign and " " in line.strip():
        name, _, value = line.strip().partition(" ")
        sign = "="
    if sign:
        os.environ[name.strip()] = value.strip()
        print(f"env: {name.strip()}={value.strip()}")
    elif name.strip():
        return os.environ.get(name.strip())
    else:
        return dict(os.environ)


def own_names(shell):
    hidden = {"In", "Out", "exit", "quit"}
    return sorted(name for name in shell.user_ns if name[:1] != "_" and name not in hidden)


def who(shell, line):
    print("\t".join(own_names(shell)) or "Interactive namespace is empty.")


def whos(shell, line):
    for name in own_names(shell):
        value = shell.user_ns[name]
        text = repr(value)
        print(f"{name}\t{type(value).__name__}\t{text[:60]}{'...' if len(text) > 60 else ''}")


def time_line(shell, line, cell=None):
    import time

    wall, cpu = time.perf_counter(), time.process_time()
    try:
        return run_code(shell.user_ns, line if cell is None else transform(cell), "<timed>")
    finally:
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        print(f"CPU times: total: {duration(cpu)}\nWall time: {duration(wall)}")


def timeit_line(shell, line, cell=None):
    import timeit

    number, repeat = None, 7
    while match := re.match(r"-([nr]) ?(\d+) *|-q *", line):
        if match[1] == "n":
            number = int(match[2])
        elif match[1] == "r":
            repeat = int(match[2])
        line = line[match.end() :]
    setup, code = ("pass", line) if cell is None else (line or "pass", cell)
    timer = timeit.Timer(code, setup, globals=shell.user_ns)
    if number is None:
        number = timer.autorange()[0]
    times = [taken / number for taken in timer.repeat(repeat, number)]
    mean = sum(times) / len(times)
    deviation = (sum((taken - mean) ** 2 for taken in times) / len(times)) ** 0.5
    print(
        f"{duration(mean)} \u00b1 {duration(deviation)} per loop"
        f" (mean \u00b1 std. dev. of {repeat} runs, {number:,} loops each)"
    )


def duration(seconds):
    for unit, size in (("s", 1), ("ms", 1e-3), ("\u00b5s", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def matplotlib_line(shell, line):
    # Figures are displayed anyway.
    if line.strip() not in ("inline", "", "agg", "notebook", "widget"):
        raise UsageError(f"%matplotlib {line.strip()}: figures can only be shown inline here")


def script(shell, line, cell, program="bash"):
    flush_streams()
    ended = subprocess.run([*program.split(), *line.split()], input=cell, text=True)
    if ended.returncode:
        raise subprocess.CalledProcessError(ended.returncode, program)


def writefile(shell, line, cell):
    append = line.startswith("-a ")
    path = os.path.expanduser(line.removeprefix("-a ").strip())
    exists = os.path.exists(path)
    with open(path, "a" if append else "w") as file:
        file.write(cell)
    print(("Appending to " if append else "Overwriting " if exists else "Writing ") + path)


def capture(shell, line, cell):
    import contextlib
    import io
    import types

    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        run_code(shell.user_ns, transform(cell))
    if line.strip():
        shell.user_ns[line.split()[-1]] = types.SimpleNamespace(stdout=out.getvalue(), stderr=err.getvalue())


def help_on(shell, line):
    import inspect

    name = line.strip()
    try:
        value = eval(name, shell.user_ns)
    except Exception:
        print(f"Object `{name}` not found.")
        return
    try:
        print(f"Signature: {name}{inspect.signature(value)}")
    except (TypeError, ValueError):
        pass
    print(f"Type: {type(value).__name__}")
    if not callable(value):
        print(f"String form: {value}")
    print(f"Docstring: {inspect.getdoc(value) or '<no docstring>'}")


def ignored(shell, line):
    return None


LINE_MAGICS = {
    "autoreload": ignored, "cd": cd, "config": ignored, "env": env, "load_ext": ignored, "matplotlib": matplotlib_line,
    "pinfo": help_on, "pip": pip, "pwd": lambda shell, line: os.getcwd(), "set_env": env, "time": time_line,
    "timeit": timeit_line, "who": who, "whos": whos,
    "lsmagic": lambda shell, line: print(known(LINE_MAGICS, "%"), known(CELL_MAGICS, "%%"), sep="\n"),
    "ls": lambda shell, line: shell.system("ls " + line), "cat": lambda shell, line: shell.system("cat " + line),
    "sx": lambda shell, line: shell.getoutput(line), "system": lambda shell, line: shell.getoutput(line),
}
CELL_MAGICS = {
    "bash": script, "capture": capture, "time": time_line, "timeit": timeit_line, "writefile": writefile,
    "sh": lambda shell, line, cell: script(shell, line, cell, "sh"),
    "script": lambda shell, line, cell: script(shell, "", cell, line),
    "javascript": lambda shell, line, cell: script(shell, line, cell, "bun run -"),
    "html": lambda shell, line, cell: builtins.display(type("HTML", (), {"_repr_html_": lambda _: cell})()),
}
CALL = re.compile(r"^(\s*)((?:[\w.,\[\]'\" ]+=\s*)?)([!%])(?![=\s])(.*)$")
HELP = re.compile(r"^(\s*)(\?{0,2})([A-Za-z_][\w.]*)(\?{0,2})\s*$")
# Texts and comments, brackets, and the end of a line.
TOKENS = re.compile(r"[rbfuRBFU]{0,2}('''|\"\"\"|'|\")|#[^\n]*|[()\[\]{}]|\\\n|\n")


def transform(code):
    """Returns code in which everything that is not Python has become calls of `get_ipython()`, line for line."""
    first, _, rest = code.lstrip("\n").partition("\n")
    if first.startswith("%%"):
        name, _, line = first[2:].strip().partition(" ")
        return f"get_ipython().run_cell_magic({name!r}, {line!r}, {rest!r})"
    starts = set(logical_lines(code))
    at, lines = 0, []
    for line in code.splitlines(keepends=True):
        lines.append(call(line) if at in starts else line)
        at += len(line)
    return "".join(lines)


def logical_lines(code):
    # The offsets at which a statement can start: outside of texts and brackets.
    yield 0
    at, depth = 0, 0
    for _ in range(len(code)):
        line_end = code.find("\n", at)
        start = code.rfind("\n", 0, at) + 1
        if at == start and depth == 0 and line_end >= 0 and code[at:line_end].lstrip()[:1] in ("!", "%", "?"):
            # A command has its own quotes.
            at = line_end + 1
            yield at
            continue
        token = TOKENS.search(code, at)
        if not token:
            return
        text, at = token[0], token.end()
        if token[1]:
            end = re.compile(r"(?s)(?:\\.|(?!" + token[1] + r").)*" + token[1]).match(code, at)
            at = end.end() if end else len(code)
        elif text in "([{":
            depth += 1
        elif text in ")]}":
            depth = max(depth - 1, 0)
        elif text == "\n" and depth == 0:
            yield at


def call(line):
    body, end = (line[:-1], "\n") if line.endswith("\n") else (line, "")
    match = CALL.match(body)
    if match:
        indent, target, sign, rest = match.groups()
        if sign == "%":
            name, _, line = rest.strip().partition(" ")
            return f"{indent}{target}get_ipython().run_line_magic({name!r}, {line.strip()!r}){end}"
        function = "getoutput" if target or rest.startswith("!") else "system"
        return f"{indent}{target}get_ipython().{function}({rest.removeprefix('!').strip()!r}){end}"
    match = HELP.match(body)
    if match and (match[2] or match[4]):
        return f"{match[1]}get_ipython().run_line_magic('pinfo', {match[3]!r}){end}"
    return line


SHELL = Shell()

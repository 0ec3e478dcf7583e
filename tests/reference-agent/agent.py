"""A small agent of version 0 of the protocol, written from the specification alone, with the standard library only.

It listens on a free loopback port and prints `listening on HOST:PORT`. It runs code as the user that starts it, without any
isolation: it exists to test the conformance suite. With `--mutant` it has one fault, which the suite must find.
"""

import argparse
import codecs
import contextlib
import json
import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

VERSION = "0-reference"
LINE_BYTES = 16 * 1024 * 1024
CODE_BYTES = 2 * 1024 * 1024
CHUNK_BYTES = 64 * 1024
FLUSH_S = 0.05
GRACE_S = 1.0
MAX_TIMEOUT_S = 300

BLOCKED_NAMES = set(
    "BASHOPTS BASH_ENV BUN_OPTIONS ENV GCONV_PATH GLIBC_TUNABLES IFS LOCPATH NODE_OPTIONS NODE_PATH PATH PERL5LIB PERL5OPT "
    "PROMPT_COMMAND PS4 PYTHONBREAKPOINT PYTHONHOME PYTHONINSPECT PYTHONPATH PYTHONPYCACHEPREFIX PYTHONSTARTUP "
    "PYTHONUSERBASE SHELLOPTS".split()
)
BLOCKED_PREFIXES = ("BASH_FUNC_", "BUN_INSPECT", "FUMEHOOD_", "LD_")

# Each fault, and what it does.
MUTANTS = {
    "one-request-per-read": "takes the first line of each read and forgets the rest",
    "request-at-end-of-file": "treats bytes without a newline as a request when the client closes",
    "no-line-limit": "accepts lines of any length",
    "closes-after-long-line": "closes the connection after a line that is too long",
    "ignores-unknown-fields": "accepts fields that it does not know",
    "last-duplicate-wins": "accepts a field that occurs twice",
    "numeric-version": "sends its version as a number",
    "two-completes": "sends `complete` twice",
    "answers-at-once": "answers a ping while an exec runs",
    "one-program": "runs one program at a time, over all connections",
    "reads-ahead": "reads a program's output faster than the client takes it",
    "silent-until-end": "keeps all output until the program ends",
    "small-pieces": "sends 16 bytes in each message",
    "splits-characters": "decodes each chunk for itself",
    "drops-invalid-bytes": "drops bytes that are not UTF-8",
    "merges-streams": "sends standard error as standard output",
    "large-chunks": "sends chunks of up to a megabyte",
    "keeps-variables": "keeps the variables of an exec for later ones",
    "waiting-input": "gives programs a standard input that never ends",
    "waits-for-pipes": "waits until a program's pipes are closed",
    "leaves-processes": "does not kill the processes that a program leaves behind",
    "drops-tail": "forgets all but 32 KiB of the output that waits when the program ends",
    "outlives-connection": "lets a program run on when its client disconnects",
    "always-zero": "reports exit code 0 for every exit",
    "negative-signals": "reports the death by a signal as a negative number",
    "timeout-is-137": "reports a timeout as any death by SIGKILL",
    "kills-at-once": "sends SIGKILL at a timeout, and no other signal before",
    "no-kill": "sends no SIGKILL to a program that ignores a timeout",
    "replaces-invalid-requests": "replaces bytes of a request that are not UTF-8",
    "lenient-numbers": "converts texts to numbers",
    "accepts-control-characters": "accepts control characters in variables",
    "accepts-loader-variables": "accepts variables that begin with LD_",
    "accepts-bare-packages": "accepts packages without a version",
    "shell-packages": "accepts packages for the shell",
    "closes-after-error": "closes the connection after an error",
    "code-in-characters": "counts the characters of code, not its bytes",
    "ninety-nine-variables": "rejects the hundredth variable",
    "value-in-characters": "counts the characters of a value, not its bytes",
    "minute-by-default": "gives an exec without a timeout a minute",
    "timeout-301": "accepts a timeout of 301 seconds",
}

mutant = None


class Rejected(Exception):
    """A request that is answered by an error."""

    def __init__(self, error_type, message):
        super().__init__(message)
        self.error_type = error_type


class Disconnected(Exception):
    """The client is gone."""


# Requests ------------------------------------------------------------------------------------------------------------


def unique(pairs):
    fields = dict(pairs)
    if len(fields) != len(pairs) and mutant != "last-duplicate-wins":
        raise Rejected("request_error", "a field occurs twice")
    return fields


def no_constant(text):
    raise Rejected("request_error", f"{text} is not a number of JSON")


def parse(line):
    """The object on a line. Raises `Rejected`."""
    if len(line) > LINE_BYTES and mutant != "no-line-limit":
        raise Rejected("protocol_error", f"a line has more than {LINE_BYTES} bytes")
    try:
        text = line.decode("utf-8", "replace" if mutant == "replaces-invalid-requests" else "strict")
    except UnicodeDecodeError as error:
        raise Rejected("protocol_error", f"a line is not UTF-8: {error.reason}") from error

    try:
        fields = json.loads(text, object_pairs_hook=unique, parse_constant=no_constant)
        json.dumps(fields, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise Rejected("request_error", f"a line must hold one JSON object: {str(error)[:200]}") from error
    if not isinstance(fields, dict):
        raise Rejected("request_error", "a line must hold one JSON object")
    return fields


def text(value):
    return isinstance(value, str)


def whole(value):
    return isinstance(value, int) and not isinstance(value, bool)


def variables(value):
    return isinstance(value, dict) and all(text(item) for item in value.values())


def texts(value):
    return isinstance(value, list) and all(text(item) for item in value)


# The fields of each action: a check, and whether the field is required.
FIELDS = {
    "ping": {},
    "exec": {"language": (text, True), "code": (text, True), "timeout": (whole, False), "env_vars": (variables, False)},
    "install_packages": {"language": (text, True), "packages": (texts, True), "timeout": (whole, False)},
}


def check_fields(request):
    action = request.get("action")
    if not text(action) or action not in FIELDS:
        raise Rejected("request_error", f"field `action`: it must be one of {', '.join(FIELDS)}")

    fields = FIELDS[action]
    for name in request:
        if name != "action" and name not in fields and mutant != "ignores-unknown-fields":
            raise Rejected("request_error", f"unknown field `{name[:80]}`")
    for name, (check, is_required) in fields.items():
        if mutant == "lenient-numbers" and name == "timeout" and text(request.get(name)):
            request[name] = int(request[name])
        if name not in request and is_required:
            raise Rejected("request_error", f"missing field `{name}`")
        if name in request and not check(request[name]):
            raise Rejected("request_error", f"field `{name}` has the wrong type")

    if "language" in fields and request["language"] not in ("python", "javascript", "raw"):
        raise Rejected("request_error", "field `language`: it must be python, javascript or raw")
    return action


def check_timeout(request, least):
    most = 301 if mutant == "timeout-301" else MAX_TIMEOUT_S
    if not least <= request.get("timeout", least) <= most:
        raise Rejected("request_error", f"field `timeout`: {least} to {MAX_TIMEOUT_S} seconds are allowed")


def check_code(code):
    size = len(code) if mutant == "code-in-characters" else len(code.encode())
    if size > CODE_BYTES:
        raise Rejected("code_error", f"the code has {size} bytes; {CODE_BYTES} are allowed")
    if "\0" in code:
        raise Rejected("code_error", "the code contains a NUL character")


def is_control(character, allowed=""):
    return character not in allowed and (ord(character) < 32 or 127 <= ord(character) < 160)


def check_variables(values):
    if len(values) > (99 if mutant == "ninety-nine-variables" else 100):
        raise Rejected("env_var_error", f"{len(values)} variables; 100 are allowed")

    for name, value in values.items():
        is_blocked = name in BLOCKED_NAMES or name.startswith(BLOCKED_PREFIXES)
        if mutant == "accepts-loader-variables" and name.startswith("LD_"):
            is_blocked = False
        if is_blocked:
            raise Rejected("env_var_error", f"the variable {name} is blocked")
        if not 1 <= len(name.encode()) <= 256 or "=" in name:
            raise Rejected("env_var_error", "a name has 1 to 256 bytes and no `=`")
        if len(value if mutant == "value-in-characters" else value.encode()) > 4096:
            raise Rejected("env_var_error", "a value has at most 4096 bytes")

        has_control = any(map(is_control, name)) or any(is_control(c, "\t\n") for c in value)
        if has_control and (mutant != "accepts-control-characters" or "\0" in name + value):
            raise Rejected("env_var_error", "a control character in a variable")


PYTHON_PACKAGE = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)(\[[A-Za-z0-9,._-]+\])?((==|!=|~=|<=|>=|<|>|===)[A-Za-z0-9.*+!,<>=~-]+)?")
JAVASCRIPT_PACKAGE = re.compile(r"((?:@[a-z0-9._-]+/)?[a-z0-9][a-z0-9._-]*)()(@[A-Za-z0-9.*^~<>=|-]+)?")


def check_packages(request):
    language, packages = request["language"], request["packages"]
    if language == "raw" and mutant != "shell-packages":
        raise Rejected("package_error", "the shell has no packages")
    if not 1 <= len(packages) <= 50:
        raise Rejected("package_error", f"{len(packages)} packages; 1 to 50 are allowed")

    pattern = JAVASCRIPT_PACKAGE if language == "javascript" else PYTHON_PACKAGE
    for package in packages:
        match = pattern.fullmatch(package)
        has_version = match and (match.group(3) or mutant == "accepts-bare-packages")
        if not has_version or ".." in package:
            raise Rejected("package_error", f"{package[:80]!r} is not a package with a version")
        if len(match.group(1)) > 214 or len(package) > 512:
            raise Rejected("package_error", "a package is longer than 214 bytes, or 512 with its version")


# Programs ------------------------------------------------------------------------------------------------------------


# The bytes of output that gather at most.
PIECE_BYTES = {"large-chunks": 1 << 20, "small-pieces": 16, "silent-until-end": 1 << 30}


class Output:
    """One stream of a program, on its way to the client."""

    def __init__(self, name, pipe):
        self.name, self.pipe = name, pipe
        self.decoder = self.new_decoder()
        self.waiting = b""
        self.since = None
        self.is_first = True
        self.is_open = True

    def new_decoder(self):
        errors = "ignore" if mutant == "drops-invalid-bytes" else "replace"
        return codecs.getincrementaldecoder("utf-8")(errors)

    def read(self):
        """Reads what is there."""
        try:
            data = os.read(self.pipe.fileno(), PIECE_BYTES.get(mutant, CHUNK_BYTES) - len(self.waiting))
        except BlockingIOError:
            return
        if not data:
            self.is_open = False
            return
        self.waiting += data
        self.since = self.since or time.monotonic()

    def is_due(self, now):
        if mutant == "silent-until-end" or not self.waiting:
            return False
        if mutant == "large-chunks":
            return self.is_full() or now - self.since >= 0.5
        return self.is_first or self.is_full() or now - self.since >= FLUSH_S

    def is_full(self):
        return len(self.waiting) >= PIECE_BYTES.get(mutant, CHUNK_BYTES)

    def take(self, final=False):
        """The text that can be sent."""
        chunk = self.decoder.decode(self.waiting, final or mutant == "splits-characters")
        self.waiting, self.since, self.is_first = b"", None, False
        return chunk


def command(request, folder):
    if request["action"] == "install_packages":
        tools = {"python": ["uv", "pip", "install", "--"], "javascript": ["bun", "add", "--"], "raw": ["true"]}
        return tools[request["language"]] + request["packages"]

    program, ending = {"python": (sys.executable, "py"), "raw": ("bash", "sh"), "javascript": ("bun", "ts")}[request["language"]]
    path = os.path.join(folder, f"main.{ending}")
    with open(path, "w", encoding="utf-8", newline="") as file:
        file.write(request["code"])
    return [program, path]


kept_variables = {}


def environment(request):
    values = dict(os.environ)
    values.update(kept_variables)
    values.update(request.get("env_vars", {}))
    if mutant == "keeps-variables":
        kept_variables.update(request.get("env_vars", {}))
    return values


one_program = threading.Lock()


def run(request, client):
    """Runs a program and sends its output and its end."""
    with one_program if mutant == "one-program" else contextlib.nullcontext():
        run_program(request, client)


def run_program(request, client):
    begun = time.monotonic()
    default = 300 if request["action"] == "install_packages" else 60 if mutant == "minute-by-default" else 5
    timeout = request.get("timeout", default) or MAX_TIMEOUT_S

    with tempfile.TemporaryDirectory() as folder:
        endless = os.pipe() if mutant == "waiting-input" else None
        try:
            process = subprocess.Popen(
                command(request, folder),
                env=environment(request),
                stdin=endless[0] if endless else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise Rejected("agent_error", f"the program could not be started: {error}") from error
        finally:
            if endless:
                os.close(endless[0])

        outputs = [Output("stdout", process.stdout), Output("stderr", process.stderr)]
        try:
            timed_out = follow(process, outputs, client, begun + timeout)
        finally:
            keeps = mutant == "leaves-processes" or (mutant == "outlives-connection" and process.poll() is None)
            if not keeps:
                kill(process, signal.SIGKILL)
                process.wait()
            if endless:
                os.close(endless[1])

        # What was written before the end.
        for output in outputs:
            os.set_blocking(output.pipe.fileno(), False)
            while output.is_open:
                before = len(output.waiting)
                output.read()
                if len(output.waiting) == before:
                    break
                if output.is_full():
                    send_output(client, output)
            if mutant == "drops-tail":
                output.waiting = output.waiting[:32768]
            send_output(client, output, final=True)
            output.pipe.close()

    end = {"type": "complete", "exit_code": exit_code(process, timed_out)}
    end["execution_time_ms"] = int((time.monotonic() - begun) * 1000)
    client.send(end)
    if mutant == "two-completes":
        client.send(end)


def exit_code(process, timed_out):
    code = process.returncode
    if timed_out and mutant != "timeout-is-137":
        return 124
    if mutant == "always-zero" and code > 0:
        return 0
    return 128 - code if code < 0 and mutant != "negative-signals" else code


def kill(process, number):
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        pass


def follow(process, outputs, client, deadline):
    """Forwards output until the program has ended. Returns whether its time was over."""
    for output in outputs:
        os.set_blocking(output.pipe.fileno(), False)
    steps = [signal.SIGKILL] if mutant == "kills-at-once" else [signal.SIGINT, signal.SIGTERM, signal.SIGKILL]
    if mutant == "no-kill":
        steps.pop()
    next_step, timed_out = deadline, False

    while True:
        with selectors.DefaultSelector() as selector:
            for output in outputs:
                if output.is_open and not output.is_full():
                    selector.register(output.pipe, selectors.EVENT_READ)
            selector.select(0.02) if selector.get_map() else time.sleep(0.02)

        ended = process.poll() is not None
        if mutant == "waits-for-pipes":
            ended = ended and not any(output.is_open for output in outputs)
        now = time.monotonic()
        for output in outputs:
            if output.is_open and not output.is_full():
                output.read()
            if output.is_due(now):
                send_output(client, output)
        if ended:
            return timed_out

        client.check_alive()
        if mutant == "answers-at-once":
            client.answer_pings()
        if now >= next_step and steps:
            kill(process, steps.pop(0))
            next_step, timed_out = now + GRACE_S, True


def send_output(client, output, final=False):
    chunk = output.take(final)
    # A decoded chunk may be longer than its bytes.
    for at in range(0, len(chunk), CHUNK_BYTES if mutant != "large-chunks" else len(chunk) or 1):
        part = chunk[at : at + CHUNK_BYTES] if mutant != "large-chunks" else chunk
        name = "stdout" if mutant == "merges-streams" else output.name
        client.send({"type": name, "chunk": part})


# Connections ---------------------------------------------------------------------------------------------------------


class Client:
    """One connection."""

    def __init__(self, connection):
        self.connection = connection
        self.input = b""
        self.is_skipping = False
        self.has_ended = False
        self.outgoing = []
        self.wakeup = threading.Condition()
        if mutant == "reads-ahead":
            threading.Thread(target=self.send_later, daemon=True).start()

    def send(self, message):
        if mutant == "reads-ahead":
            with self.wakeup:
                self.outgoing.append(message)
                self.wakeup.notify()
            return
        line = json.dumps(message, ensure_ascii=False).encode() + b"\n"
        try:
            self.connection.settimeout(None)
            # In parts, so that a client that has gone is noticed.
            view = memoryview(line)
            while view:
                selector = selectors.DefaultSelector()
                selector.register(self.connection, selectors.EVENT_WRITE)
                if not selector.select(0.2):
                    selector.close()
                    self.check_alive()
                    continue
                selector.close()
                view = view[self.connection.send(view, socket.MSG_DONTWAIT) :]
        except BlockingIOError:
            return self.send(message)
        except OSError as error:
            raise Disconnected from error

    def send_later(self):
        while True:
            with self.wakeup:
                while not self.outgoing:
                    self.wakeup.wait()
                message = self.outgoing.pop(0)
            try:
                self.connection.sendall(json.dumps(message, ensure_ascii=False).encode() + b"\n")
            except OSError:
                return

    def error(self, rejected):
        self.send({"type": "error", "message": str(rejected), "error_type": rejected.error_type, "version": VERSION})

    def check_alive(self):
        """Raises `Disconnected` if the client has gone. Requests that it has sent meanwhile are kept."""
        try:
            data = self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError as error:
            raise Disconnected from error
        if data:
            # The end of the connection is hidden behind bytes that were not read.
            if len(self.input) < LINE_BYTES:
                self.input += self.connection.recv(1 << 20, socket.MSG_DONTWAIT)
            return
        raise Disconnected

    def answer_pings(self):
        ping = b'{"action":"ping"}\n'
        if self.input.startswith(ping):
            self.input = self.input[len(ping) :]
            self.send({"type": "pong", "version": VERSION})

    def lines(self):
        """The lines of the client, as they arrive; `None` for one that is too long."""
        while True:
            while b"\n" in self.input:
                line, self.input = self.input.split(b"\n", 1)
                if mutant == "one-request-per-read":
                    self.input = b""
                is_long = self.is_skipping or (len(line) > LINE_BYTES and mutant != "no-line-limit")
                self.is_skipping = False
                yield None if is_long else line
            if len(self.input) > LINE_BYTES and mutant != "no-line-limit":
                # The rest of the line is not held.
                self.is_skipping, self.input = True, b""

            try:
                data = self.connection.recv(1 << 20)
            except OSError:
                return
            if not data:
                if mutant == "request-at-end-of-file" and self.input:
                    yield self.input
                return
            self.input = data if self.is_skipping and b"\n" not in data else self.input + data
            if self.is_skipping and b"\n" not in data:
                self.input = b""

    def serve(self):
        try:
            for line in self.lines():
                try:
                    if line is None:
                        raise Rejected("protocol_error", f"a line has more than {LINE_BYTES} bytes")
                    self.handle(parse(line))
                except Rejected as rejected:
                    self.error(rejected)
                    if mutant == "closes-after-error" or (mutant == "closes-after-long-line" and line is None):
                        return
        except Disconnected:
            pass
        finally:
            self.connection.close()

    def handle(self, request):
        action = check_fields(request)
        if action == "ping":
            self.send({"type": "pong", "version": 0 if mutant == "numeric-version" else VERSION})
            return

        if action == "exec":
            check_timeout(request, 0)
            check_code(request["code"])
            check_variables(request.get("env_vars", {}))
        else:
            check_timeout(request, 1)
            check_packages(request)
        run(request, self)


def main():
    global mutant
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutant", choices=MUTANTS, help="the fault of this agent")
    parser.add_argument("--list", action="store_true", help="print the names of the mutants")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(MUTANTS))
        return
    mutant = arguments.mutant

    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    print(f"listening on 127.0.0.1:{listener.getsockname()[1]}", flush=True)
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = Client(connection)
        threading.Thread(target=client.serve, daemon=True).start()


if __name__ == "__main__":
    main()

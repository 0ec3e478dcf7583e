# Runs programs one after the other with the plain interpreter, each as a process of its own on a file in the home
# directory, and writes what each did as a line of JSON, with bytes as the characters of the same numbers. Reads a JSON
# array from standard input.
import json, os, select, shutil, signal, subprocess, sys, time

LIMIT_S, LIMIT_BYTES = 60, 8 << 20
# As the agent started this process: Python may have added a variable for its locale.
ENVIRONMENT = dict(
    pair.split(b"=", 1) for pair in open("/proc/self/environ", "rb").read().split(b"\0") if b"=" in pair
)


def run(command, stdin, is_merged):
    # Returns standard output, standard error, exit code and whether the time was up. Does not wait for processes that
    # outlive the program, as a one-shot run does not.
    process = subprocess.Popen(
        command, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if is_merged else subprocess.PIPE, start_new_session=True, bufsize=0,
    )
    data, end = stdin.encode(), time.monotonic() + LIMIT_S
    outputs = {pipe.fileno(): bytearray() for pipe in (process.stdout, process.stderr) if pipe}
    readable, streams = set(outputs), list(outputs.values())
    ended, poll, late = os.pidfd_open(process.pid), select.poll(), False
    for descriptor in (*readable, ended):
        poll.register(descriptor, select.POLLIN)
        os.set_blocking(descriptor, descriptor == ended)
    source = process.stdin.fileno()
    os.set_blocking(source, False)
    poll.register(source, select.POLLOUT if data else 0)
    if not data:
        poll.unregister(source)
        process.stdin.close()
        source = None

    def drain(descriptor):
        # Reads what is there; forgets the pipe at its end.
        while descriptor in readable:
            try:
                piece = os.read(descriptor, 65536)
            except BlockingIOError:
                return
            if len(outputs[descriptor]) < LIMIT_BYTES:
                outputs[descriptor] += piece
            if not piece:
                readable.discard(descriptor)
                poll.unregister(descriptor)

    running = True
    while running:
        ready = dict(poll.poll(1000))
        if time.monotonic() > end:
            late = True
            break
        if source is not None and source in ready:
            try:
                data = data[os.write(source, data[:4096]):]
            except OSError:
                data = b""
            if not data:
                poll.unregister(source)
                process.stdin.close()
                source = None
        running = ended not in ready
        for descriptor in list(readable):
            drain(descriptor)
    os.close(ended)
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    code = process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe:
            pipe.close()
    streams.append(b"")
    return streams[0], streams[1], code if code >= 0 else 128 - code, late


def clean():
    # Removes what programs have left.
    for place in (os.getcwd(), "/tmp"):
        for name in set(os.listdir(place)) - BEFORE[place]:
            path = os.path.join(place, name)
            if os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path, ignore_errors=True)
            else:
                os.remove(path)


# An interpreter that waits in this VM may own a file with the program's name. It makes another one when it is needed.
BEFORE = {
    place: {name for name in os.listdir(place) if not name.startswith("main.")} for place in (os.getcwd(), "/tmp")
}
for program in json.load(sys.stdin):
    result, start = {}, time.monotonic()
    for is_merged in (False, True):
        with open(program["file"], "w") as file:
            file.write(program["code"])
        # A program may not be readable by others, as in a one-shot run.
        os.chmod(program["file"], 0o600)
        command = program["merged" if is_merged else "command"]
        out, err, code, late = run(command, program["stdin"], is_merged)
        clean()
        if is_merged:
            result["merged"] = out.decode("latin-1")
        else:
            result = {"stdout": out.decode("latin-1"), "stderr": err.decode("latin-1"), "code": code}
        result["late"] = late
        # The order matters where there are two streams.
        if late or not (out and err and program["merged"]):
            break
    result["seconds"] = time.monotonic() - start
    print(json.dumps(result), flush=True)

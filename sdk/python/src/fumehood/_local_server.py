"""The local server of this user: found at its socket, or started."""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import shutil
import socket
import stat
import struct
import subprocess
import time
from pathlib import Path
from typing import Optional

from fumehood._errors import (
    DamagedError,
    ForbiddenError,
    FumehoodError,
    MissingError,
    ServerError,
    error_from,
)

IDLE_TIMEOUT_S = 300
"""Seconds without work after which a server that the SDK started exits."""

START_TIMEOUT_S = 60.0
"""Timeout for the start of a server, in seconds. It starts no VM, but the machine may be busy."""

_PROBE_TIMEOUT_S = 5.0
"""Timeout for the readiness check of a listening server, in seconds."""

_SHUTDOWN_S = 30.0
"""Seconds until a server that is shutting down releases its state: it waits 20 s for runs, then ends VMs."""

_STATE_IN_USE = "is in use by another server"
"""Log message of a server that exits because another one uses its state."""

_MAX_SOCKET_BYTES = 108
"""Maximum size of the path of a socket, in bytes."""

_RESTART_PAUSE_S = 0.25
_POLL_INTERVAL_S = 0.02
_MAX_LOG_BYTES = 1024 * 1024
"""Size from which a log is rotated; one old log is retained."""
_LOG_TAIL_BYTES = 4096

_started_servers: list[subprocess.Popen[bytes]] = []
"""Servers started by this process, to be reaped after their exit."""


def socket_path() -> Path:
    """Returns the path of this user's socket."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    base = Path(runtime) / "fumehood" if runtime else Path(f"/tmp/fumehood-{os.geteuid()}")
    return base / "server.sock"


def recorded_socket() -> Optional[Path]:
    """Returns the path of the socket that this user's server has recorded in the lock of its state. Another environment
    may have started the server elsewhere, for example with another XDG_RUNTIME_DIR. It may have been killed since."""
    try:
        lock = os.open(_lock_path(), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None

    try:
        metadata = os.fstat(lock)
        if not stat.S_ISREG(metadata.st_mode) or metadata.st_uid != os.geteuid():
            return None
        path = os.read(lock, _MAX_SOCKET_BYTES)
    finally:
        os.close(lock)
    return Path(os.fsdecode(path)) if path.startswith(b"/") else None


def _lock_path() -> Path:
    state = os.environ.get("FUMEHOOD_STATE")
    return (Path(state) if state else log_path().with_name("server.sqlite")).with_suffix(".lock")


def _ready_recorded_socket() -> Optional[Path]:
    path = recorded_socket()
    try:
        return path if path is not None and is_ready(path) else None
    except FumehoodError:
        # A server that cannot be used is replaced by one at the usual place.
        return None


def log_path() -> Path:
    """Returns the path of the log of servers that the SDK starts."""
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local/state") / "fumehood" / "server.log"


def find_program() -> Path:
    """Returns the path of the fumehood binary.

    Raises:
        MissingError: the binary is not found; the message says how to install it.
    """
    configured = os.environ.get("FUMEHOOD_BIN")
    if configured:
        path = Path(configured)
        if path.is_file() and os.access(path, os.X_OK):
            return path.absolute()
        raise MissingError(
            f"FUMEHOOD_BIN is {configured}, which is not an executable file; correct or unset it", retry="never"
        )

    found = shutil.which("fumehood")
    if found:
        return Path(found).absolute()
    cargo = Path.home() / ".cargo/bin/fumehood"
    if cargo.is_file() and os.access(cargo, os.X_OK):
        return cargo

    raise MissingError(
        "the fumehood binary is not installed: it is not named by FUMEHOOD_BIN, not in PATH and not in ~/.cargo/bin;"
        " install it with `cargo install --path crates/cli` in a checkout of fumehood, then run `fumehood image"
        " build`; or set FUMEHOOD_URL and FUMEHOOD_API_KEY to use another server",
        retry="never",
    )


def check_private(path: Path, is_dir: bool, what: str) -> None:
    """Checks that a path belongs to this user and is not accessible to others. ``is_dir``: it must be a directory;
    otherwise a socket.

    Raises:
        ForbiddenError: it is of another kind, belongs to another user, or is accessible to others.
    """
    metadata = path.lstat()
    has_kind = stat.S_ISDIR(metadata.st_mode) if is_dir else stat.S_ISSOCK(metadata.st_mode)
    mode = stat.S_IMODE(metadata.st_mode)

    if not has_kind:
        problem = f"it is not a {what}"
    elif metadata.st_uid != os.geteuid():
        problem = f"it belongs to user {metadata.st_uid}, not to {os.geteuid()}"
    elif mode & 0o077:
        problem = f"other users may access it (mode {mode:04o}); it must be 0700 or 0600"
    else:
        return

    raise ForbiddenError(
        f"the local server's {what} {path} is not trusted: {problem}; remove it, or set FUMEHOOD_URL to use another"
        " server",
        retry="never",
    )


def is_ready(path: Path, timeout_s: float = _PROBE_TIMEOUT_S) -> bool:
    """Returns whether a server of this user listens at the socket and is ready.

    Raises:
        ForbiddenError: the socket is not private to this user.
        FumehoodError: a server listens, but reports a problem or does not answer.
    """
    try:
        check_private(path.parent, True, "directory")
        check_private(path, False, "socket")
    except FileNotFoundError:
        return False

    connection = _Connection(path, timeout_s)
    try:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        body = response.read(_LOG_TAIL_BYTES).decode("utf-8", "replace")
    except (ConnectionRefusedError, FileNotFoundError):
        return False
    except TimeoutError as error:
        raise ServerError(
            f"the server at {path} did not answer the readiness check within {timeout_s:g} s", retry="safe"
        ) from error
    except (OSError, http.client.HTTPException):
        # The server is shutting down.
        return False
    finally:
        connection.close()

    if response.status == 503 and "draining" in body:
        return False
    if response.status != 200:
        raise _not_ready_error(path, response.status, body)
    return True


def _not_ready_error(path: Path, status: int, body: str) -> FumehoodError:
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None

    if isinstance(answer, dict) and "error" in answer:
        return error_from(answer, status=status)
    return ServerError(f"the server at {path} is not ready: {status} {body.strip()}", retry="safe")


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket, to a server of this user."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))

        peer = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        uid = struct.unpack("3i", peer)[1]
        if uid != os.geteuid():
            raise ForbiddenError(
                f"the server at {self._path} is not trusted: it runs as user {uid}, not as {os.geteuid()}",
                retry="never",
            )


def ensure_running(path: Optional[Path] = None, start_s: float = START_TIMEOUT_S) -> Path:
    """Returns the socket of a server that is ready: ``path``, or one that the user's server has recorded. Starts a server
    at ``path`` if necessary. If several processes call it at the same time, one of them starts the server.

    Raises:
        ForbiddenError: the socket is not private to this user.
        MissingError: the fumehood binary is not found.
        ServerError: the server did not become ready; the message has the end of its log.
    """
    path = path or socket_path()
    _started_servers[:] = [server for server in _started_servers if server.poll() is None]
    if is_ready(path):
        return path
    recorded = _ready_recorded_socket()
    if recorded is not None:
        return recorded

    deadline = time.monotonic() + start_s
    path.parent.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.parent.mkdir(mode=0o700)
    except FileExistsError:
        check_private(path.parent, True, "directory")

    # The lock lets one process start the server while the others wait.
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    lock = os.open(path.with_name("starting.lock"), flags, 0o600)
    try:
        _acquire_lock(lock, path, deadline)
        return path if is_ready(path) else _start_server(path, deadline, start_s)
    finally:
        os.close(lock)


def _acquire_lock(lock: int, path: Path, deadline: float) -> None:
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise ServerError(
                    f"timed out waiting for another process to start the server at {path}; see {log_path()}",
                    retry="safe",
                ) from None
            time.sleep(_POLL_INTERVAL_S)


def _start_server(path: Path, deadline: float, start_s: float) -> Path:
    """Starts a server, and returns its socket; or that of the server that uses the state."""
    program, log = find_program(), log_path()
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if log.exists() and log.stat().st_size > _MAX_LOG_BYTES:
        log.replace(log.with_suffix(".log.1"))

    command = [str(program), "serve", "--no-tcp", "--socket", str(path)]
    command += ["--exit-when-idle", str(IDLE_TIMEOUT_S)]
    shown = " ".join(command)
    retry_deadline = min(deadline, time.monotonic() + _SHUTDOWN_S)
    while True:
        server, log_start = _spawn_server(command, log)
        while not _is_ready_or_dead(path, server):
            if time.monotonic() > deadline:
                server.kill()
                server.wait()
                raise ServerError(
                    f"the server (`{shown}`) was not ready within {start_s:g} s and was killed; the end of"
                    f" {log}:\n{_log_tail(log, log_start)}",
                    retry="safe",
                )
            time.sleep(_POLL_INTERVAL_S)
        if server.poll() is None:
            return path

        # A server that is shutting down no longer listens, but uses its state until its last VM has ended.
        tail = _log_tail(log, log_start)
        is_state_in_use = _STATE_IN_USE in tail
        recorded = _ready_recorded_socket() if is_state_in_use else None
        if recorded is not None:
            return recorded
        if not is_state_in_use or time.monotonic() + _RESTART_PAUSE_S > retry_deadline:
            raise ServerError(
                f"the server (`{shown}`) exited at startup with code {server.returncode}; the end of {log}:\n{tail}",
                retry="safe" if is_state_in_use else "never",
            )
        time.sleep(_RESTART_PAUSE_S)


def _spawn_server(command: list[str], log: Path) -> tuple[subprocess.Popen[bytes], int]:
    """Starts a server. Returns the process, and the offset of its own lines in the log."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    output = os.open(log, flags, 0o600)
    try:
        log_start = os.fstat(output).st_size
        # The server has its own session: Ctrl-C at this terminal, or closing the terminal, does not end it.
        server = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/", start_new_session=True
        )
    except OSError as error:
        raise MissingError(f"cannot start {command[0]}: {error}", retry="never") from error
    finally:
        os.close(output)

    _started_servers.append(server)
    return server, log_start


def _is_ready_or_dead(path: Path, server: subprocess.Popen[bytes]) -> bool:
    if server.poll() is not None:
        return True
    try:
        return is_ready(path)
    except (MissingError, DamagedError):
        # The server runs but cannot work, and would report the same again. It exits when idle.
        raise
    except FumehoodError:
        return False


def _log_tail(log: Path, start: int) -> str:
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(start, size - _LOG_TAIL_BYTES))
            return file.read().decode("utf-8", "replace").strip() or "(empty)"
    except OSError as error:
        return f"(cannot be read: {error})"

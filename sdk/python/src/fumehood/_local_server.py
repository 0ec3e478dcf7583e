"""The local server: found at its socket, or started there."""

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
"""Seconds without work after which a server that we start ends."""

START_TIMEOUT_S = 60.0
"""Seconds in which a server must be ready: it makes no VMs for that, but the machine may be busy."""

_PROBE_TIMEOUT_S = 5.0
"""Seconds in which a server that listens must say whether it is ready."""

_SHUTDOWN_S = 30.0
"""Seconds in which a server that is ending gives its state free: it lets work go on for 20, then ends VMs."""

_STATE_IN_USE = "another server runs with the state"
"""What a server says in its log that ends at once because another one has its state."""

_RESTART_PAUSE_S = 0.25
_POLL_INTERVAL_S = 0.02
_MAX_LOG_BYTES = 1024 * 1024
"""A log larger than this makes room for a new one; the old one is kept beside it."""
_LOG_TAIL_BYTES = 4096

_started_servers: list[subprocess.Popen[bytes]] = []
"""Servers that this process has started, so that they are waited for once they have ended."""


def socket_path() -> Path:
    """Where this user's server listens."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    base = Path(runtime) / "fumehood" if runtime else Path(f"/tmp/fumehood-{os.geteuid()}")
    return base / "server.sock"


def log_path() -> Path:
    """Where a server that we start writes its log."""
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local/state") / "fumehood" / "server.log"


def find_program() -> Path:
    """The command ``fumehood``.

    Raises:
        MissingError: it is not to be found; says how to get it.
    """
    given = os.environ.get("FUMEHOOD_BIN")
    if given:
        path = Path(given)
        if path.is_file() and os.access(path, os.X_OK):
            return path.absolute()
        raise MissingError(f"FUMEHOOD_BIN is {given}, which is no program; mend it or unset it", retry="never")
    found = shutil.which("fumehood")
    if found:
        return Path(found).absolute()
    cargo = Path.home() / ".cargo/bin/fumehood"
    if cargo.is_file() and os.access(cargo, os.X_OK):
        return cargo
    raise MissingError(
        "the program fumehood is neither named by FUMEHOOD_BIN, nor in PATH, nor in ~/.cargo/bin, and this package"
        " does not bring it; get it by `cargo install --path crates/cli` in a checkout of fumehood, then"
        " `fumehood image build`; or name a server by FUMEHOOD_URL and FUMEHOOD_API_KEY",
        retry="never",
    )


def check_private(path: Path, is_kind: bool, what: str) -> None:
    """Refuses what somebody else could have put there.

    Raises:
        ForbiddenError: it is of another kind, another user's, or open to others.
    """
    found = path.lstat()
    kind_ok = stat.S_ISDIR(found.st_mode) if is_kind else stat.S_ISSOCK(found.st_mode)
    mode = stat.S_IMODE(found.st_mode)
    if not kind_ok:
        wrong = f"it is no {what}"
    elif found.st_uid != os.geteuid():
        wrong = f"it belongs to user {found.st_uid}, not to {os.geteuid()}"
    elif mode & 0o077:
        wrong = f"others may use it (mode {mode:04o}); it must be 0700 or 0600"
    else:
        return
    raise ForbiddenError(
        f"the local server's {what} {path} is not trusted: {wrong}; remove it, or name a server by FUMEHOOD_URL",
        retry="never",
    )


def is_ready(path: Path, deadline_s: float = _PROBE_TIMEOUT_S) -> bool:
    """Whether this user's server listens there and is ready.

    Raises:
        ForbiddenError: what is there is not this user's.
        FumehoodError: a server listens, and says that it cannot work, or does not answer.
    """
    try:
        check_private(path.parent, True, "directory")
        check_private(path, False, "socket")
    except FileNotFoundError:
        return False
    connection = _Connection(path, deadline_s)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        said = answer.read(_LOG_TAIL_BYTES).decode("utf-8", "replace")
    except (ConnectionRefusedError, FileNotFoundError):
        return False
    except TimeoutError as error:
        raise ServerError(
            f"the server at {path} did not say within {deadline_s:g} s whether it is ready", retry="safe"
        ) from error
    except (OSError, http.client.HTTPException):
        # It is on its way to its end.
        return False
    finally:
        connection.close()
    if answer.status == 503 and "draining" in said:
        return False
    if answer.status != 200:
        raise _not_ready_error(path, answer.status, said)
    return True


def _not_ready_error(path: Path, status: int, said: str) -> FumehoodError:
    try:
        told = json.loads(said)
    except ValueError:
        told = None
    if isinstance(told, dict) and "error" in told:
        return error_from(told, status=status)
    return ServerError(f"the server at {path} is not ready: {status} {said.strip()}", retry="safe")


class _Connection(http.client.HTTPConnection):
    """HTTP to a Unix socket whose other end is this user's."""

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
                f"the server at {self._path} is run by user {uid}, not by {os.geteuid()}; it is not used",
                retry="never",
            )


def ensure_running(path: Optional[Path] = None, start_s: float = START_TIMEOUT_S) -> Path:
    """The socket of a server that is ready: one that is there, or one that is started now.

    Many processes may ask at once; one of them starts it.

    Raises:
        ForbiddenError: what is there is not this user's.
        MissingError: there is no program.
        ServerError: it did not become ready; has the end of its log.
    """
    path = path or socket_path()
    _started_servers[:] = [server for server in _started_servers if server.poll() is None]
    if is_ready(path):
        return path
    deadline = time.monotonic() + start_s
    path.parent.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.parent.mkdir(mode=0o700)
    except FileExistsError:
        check_private(path.parent, True, "directory")
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    lock = os.open(path.with_name("starting.lock"), flags, 0o600)
    try:
        _acquire_lock(lock, path, deadline)
        if not is_ready(path):
            _start_server(path, deadline, start_s)
    finally:
        os.close(lock)
    return path


def _acquire_lock(lock: int, path: Path, deadline: float) -> None:
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise ServerError(
                    f"another process has been starting the server at {path} for too long; look at {log_path()}",
                    retry="safe",
                ) from None
            time.sleep(_POLL_INTERVAL_S)


def _start_server(path: Path, deadline: float, start_s: float) -> None:
    program, log = find_program(), log_path()
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if log.exists() and log.stat().st_size > _MAX_LOG_BYTES:
        log.replace(log.with_suffix(".log.1"))
    words = [str(program), "serve", "--no-tcp", "--socket", str(path), "--exit-when-idle", str(IDLE_TIMEOUT_S), "--standby-processes", "1"]
    patience = min(deadline, time.monotonic() + _SHUTDOWN_S)
    while True:
        server, begin = _spawn_server(words, log)
        while not _is_ready_or_dead(path, server):
            if time.monotonic() > deadline:
                server.kill()
                server.wait()
                raise ServerError(
                    f"the server that was started (`{' '.join(words)}`) was not ready within {start_s:g} s and was"
                    f" killed; the end of {log}:\n{_log_tail(log, begin)}",
                    retry="safe",
                )
            time.sleep(_POLL_INTERVAL_S)
        if server.poll() is None:
            return
        said = _log_tail(log, begin)
        is_held = _STATE_IN_USE in said
        if not is_held or time.monotonic() + _RESTART_PAUSE_S > patience:
            raise ServerError(
                f"the server (`{' '.join(words)}`) ended at once with {server.returncode}; the end of {log}:\n{said}",
                retry="safe" if is_held else "never",
            )
        # One that is ending no longer listens, and has the state until its last VM is gone.
        time.sleep(_RESTART_PAUSE_S)


def _spawn_server(words: list[str], log: Path) -> tuple[subprocess.Popen[bytes], int]:
    """Starts a server; where in the log its own lines begin."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    output = os.open(log, flags, 0o600)
    try:
        begin = os.fstat(output).st_size
        # A session of its own: an interrupt at this terminal is not the server's, nor is the terminal's end.
        server = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/", start_new_session=True
        )
    except OSError as error:
        raise MissingError(f"{words[0]} could not be started: {error}", retry="never") from error
    finally:
        os.close(output)
    _started_servers.append(server)
    return server, begin


def _is_ready_or_dead(path: Path, server: subprocess.Popen[bytes]) -> bool:
    if server.poll() is not None:
        return True
    try:
        return is_ready(path)
    except (MissingError, DamagedError):
        # It would say so for ever. It ends when idle.
        raise
    except FumehoodError:
        return False


def _log_tail(log: Path, begin: int) -> str:
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(begin, size - _LOG_TAIL_BYTES))
            return file.read().decode("utf-8", "replace").strip() or "(it says nothing)"
    except OSError as error:
        return f"(it cannot be read: {error})"

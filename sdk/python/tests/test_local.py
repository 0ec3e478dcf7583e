"""How the local server is found, refused and started. A fake binary takes its place."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import fumehood
from fumehood import Client, _local_server

FAKE = Path(__file__).parent / "fake_server.py"

ASK = "from fumehood import Client; print(Client().info()['pid'])"


class Fake:
    """The starts of the fake server."""

    def __init__(self, place: Path) -> None:
        self.starts = place / "starts"
        self.socket = place / "run/fumehood/server.sock"

    def pids(self) -> list[int]:
        return [int(line) for line in self.starts.read_text().split()] if self.starts.exists() else []

    def kill(self, pid: int) -> None:
        """Kills a server that was started here, and waits until it is gone."""
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            for server in _local_server._started_servers:
                server.poll()
            try:
                if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                    return
            except OSError:
                return
            time.sleep(0.01)
        raise AssertionError(f"process {pid} is still running")


@pytest.fixture
def fake(private_dirs: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    # Use the Python that runs the tests.
    program = private_dirs / "fumehood"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{FAKE}" "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("FUMEHOOD_BIN", str(program))
    monkeypatch.setenv("FAKE_STARTS", str(private_dirs / "starts"))
    fake = Fake(private_dirs)
    yield fake
    for pid in fake.pids():
        try:
            fake.kill(pid)
        except ProcessLookupError:
            pass


def test_a_server_is_started_on_first_use_and_reused(fake: Fake) -> None:
    with Client() as client:
        pid = client.info()["pid"]
    with Client() as other:
        assert other.info()["pid"] == pid
    assert fake.pids() == [pid]
    assert fake.socket.parent.stat().st_mode & 0o777 == 0o700
    # The server has its own session, without a terminal.
    assert os.getsid(pid) == pid


def test_concurrent_processes_start_one_server(fake: Fake) -> None:
    ask = [sys.executable, "-c", ASK]
    asking = [subprocess.Popen(ask, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    told = [one.communicate(timeout=60)[0].strip() for one in asking]
    assert len(fake.pids()) == 1 and told == [str(fake.pids()[0])] * 4


def test_a_killed_server_is_replaced_on_next_use(fake: Fake) -> None:
    with Client() as client:
        first = client.info()["pid"]
        fake.kill(first)
        assert fake.socket.exists()
        assert client.info()["pid"] != first
    assert len(fake.pids()) == 2


def test_a_server_that_fails_to_start_reports_the_end_of_its_log(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_SERVER", "fails")
    log = _local_server.log_path()
    log.parent.mkdir(parents=True)
    log.write_text("of an earlier one\n")
    with pytest.raises(fumehood.ServerError, match="with code 3") as raised:
        Client().info()
    assert "made of cheese" in str(raised.value) and "earlier" not in str(raised.value)
    assert len(fake.pids()) == 1


def test_the_start_is_repeated_while_another_server_shuts_down(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_SERVER", "held")
    with Client() as client:
        assert client.info()["pid"] == fake.pids()[2]
    assert len(fake.pids()) == 3


def test_the_start_fails_while_another_server_uses_the_state(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_SERVER", "held")
    monkeypatch.setattr(_local_server, "_SHUTDOWN_S", 0.0)
    with pytest.raises(fumehood.ServerError, match="in use by another server") as raised:
        _local_server.ensure_running()
    assert raised.value.retry == "safe" and len(fake.pids()) == 1


def test_a_server_in_another_runtime_directory_is_found(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server records its socket in the lock of its state, which does not depend on XDG_RUNTIME_DIR."""
    with Client() as client:
        pid = client.info()["pid"]
        lock = _local_server.log_path().with_name("server.lock")
        lock.write_text(str(fake.socket))
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(fake.starts.parent / "other"))
        with Client() as other:
            assert other.info()["pid"] == pid

        # A server that was killed is replaced at the usual place.
        fake.kill(pid)
        assert client.info()["pid"] == fake.pids()[1] != pid
        assert _local_server.socket_path().exists()

    for content in ["", "relative/server.sock", "/nonexistent/server.sock"]:
        lock.write_text(content)
        with Client() as client:
            assert client.info()["pid"] == fake.pids()[1]
    lock.unlink()
    lock.symlink_to(fake.starts)
    assert _local_server.recorded_socket() is None


def test_the_server_that_uses_the_state_is_found(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    with Client() as client:
        pid = client.info()["pid"]
    found = iter([None, fake.socket])
    monkeypatch.setattr(_local_server, "recorded_socket", lambda: next(found))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(fake.starts.parent / "other"))
    monkeypatch.setenv("FAKE_SERVER", "held")
    with Client() as client:
        assert client.info()["pid"] == pid


def test_a_server_that_is_never_ready_is_killed(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_SERVER", "hangs")
    monkeypatch.setattr(_local_server, "_PROBE_TIMEOUT_S", 0.1)
    monkeypatch.setattr(_local_server.is_ready, "__defaults__", (0.1,))
    with pytest.raises(fumehood.ServerError, match="not ready within"):
        _local_server.ensure_running(start_s=1)
    assert all(not Path(f"/proc/{pid}").exists() for pid in fake.pids())


def test_a_missing_image_is_reported_immediately(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_SERVER", "missing")
    with pytest.raises(fumehood.MissingError, match="no image"):
        Client().info()


def test_a_large_log_is_rotated(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    log = _local_server.log_path()
    log.parent.mkdir(parents=True)
    log.write_bytes(b"x" * (_local_server._MAX_LOG_BYTES + 1))
    Client().info()
    assert log.stat().st_size < _local_server._MAX_LOG_BYTES
    assert log.with_suffix(".log.1").stat().st_size == _local_server._MAX_LOG_BYTES + 1


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_a_directory_accessible_to_others_is_refused(fake: Fake, mode: int) -> None:
    fake.socket.parent.mkdir()
    fake.socket.parent.chmod(mode)
    with pytest.raises(fumehood.ForbiddenError, match="other users may access it"):
        Client().info()
    assert fake.pids() == []


def test_a_link_instead_of_the_directory_is_refused(fake: Fake, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    fake.socket.parent.symlink_to(elsewhere)
    with pytest.raises(fumehood.ForbiddenError, match="is not a directory"):
        Client().info()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to give a directory away")
def test_a_directory_of_another_user_is_refused(fake: Fake) -> None:
    fake.socket.parent.mkdir(mode=0o700)
    os.chown(fake.socket.parent, 65534, 65534)
    with pytest.raises(fumehood.ForbiddenError, match="belongs to user 65534"):
        Client().info()


def test_a_file_or_a_socket_accessible_to_others_is_refused(fake: Fake) -> None:
    fake.socket.parent.mkdir(mode=0o700)
    fake.socket.write_text("")
    with pytest.raises(fumehood.ForbiddenError, match="is not a socket"):
        Client().info()
    fake.socket.unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(fake.socket))
        fake.socket.chmod(0o666)
        with pytest.raises(fumehood.ForbiddenError, match="0666"):
            Client().info()


def test_a_missing_binary_is_reported_with_installation_steps(
    private_dirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FUMEHOOD_BIN", raising=False)
    monkeypatch.setenv("PATH", str(private_dirs))
    monkeypatch.setenv("HOME", str(private_dirs))
    with pytest.raises(fumehood.MissingError, match="cargo install --path crates/cli") as raised:
        Client().info()
    assert "fumehood image build" in str(raised.value) and raised.value.retry == "never"
    cargo = private_dirs / ".cargo/bin/fumehood"
    cargo.parent.mkdir(parents=True)
    cargo.write_text("")
    cargo.chmod(0o755)
    assert _local_server.find_program() == cargo
    monkeypatch.setenv("FUMEHOOD_BIN", str(private_dirs / "nothing"))
    with pytest.raises(fumehood.MissingError, match="FUMEHOOD_BIN is"):
        _local_server.find_program()


def test_paths_are_stable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/user")
    assert _local_server.socket_path() == Path(f"/tmp/fumehood-{os.geteuid()}/server.sock")
    assert _local_server.log_path() == Path("/home/user/.local/state/fumehood/server.log")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    assert _local_server.socket_path() == Path("/run/user/7/fumehood/server.sock")


@pytest.mark.vm
def test_a_real_server_records_its_socket(
    _server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(_server.parents[1] / "state"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert _local_server.recorded_socket() == _server
    with Client() as client:
        assert client.info()["languages"] == ["python", "javascript", "shell"]


@pytest.mark.parametrize("url", ["ftp://x", "localhost:7474", "unix:relative"])
def test_invalid_urls_are_rejected(url: str) -> None:
    with pytest.raises(fumehood.InvalidError):
        Client(url)


def test_a_configured_socket_is_used(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    with Client() as client:
        pid = client.info()["pid"]
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/nonexistent")
    monkeypatch.setenv("FUMEHOOD_URL", f"unix://{fake.socket}")
    with Client() as client:
        assert client.info()["pid"] == pid
    with pytest.raises(fumehood.ServerError, match="could not be reached"):
        Client("unix:///nonexistent/x.sock").info()

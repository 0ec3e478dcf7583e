from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import fumehood._settings
from fumehood import Client, _local_server


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ignores the server that the developer's environment names."""
    for name in ("FUMEHOOD_URL", "FUMEHOOD_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Removes the pauses between retries."""
    import fumehood._async.run
    import fumehood._async.transport
    import fumehood._sync.run
    import fumehood._sync.transport

    none = tuple(0.0 for _ in fumehood._settings.RETRY_PAUSES_S)
    for module in (
        fumehood._async.run,
        fumehood._async.transport,
        fumehood._sync.run,
        fumehood._sync.transport,
    ):
        monkeypatch.setattr(module, "RETRY_PAUSES_S", none)


@pytest.fixture
def private_dirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Private directories for the local server's socket and log."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "run").mkdir(mode=0o700)
    return tmp_path


def stop_servers() -> None:
    """Stops the local servers that this process has started."""
    while _local_server._started_servers:
        stop(_local_server._started_servers.pop())


def stop(server: subprocess.Popen[bytes]) -> None:
    """Stops a server."""
    server.terminate()
    try:
        server.wait(60)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


@pytest.fixture(scope="session")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Starts a real server for the tests. Returns its socket."""
    place = tmp_path_factory.mktemp("server")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(place))
        patch.setenv("XDG_STATE_HOME", str(place / "state"))
        socket = _local_server.ensure_running()
    # It must outlive the servers that tests start and stop.
    server = _local_server._started_servers.pop()
    yield socket
    stop(server)


@pytest.fixture
def server(_server: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Makes the real server the default one. Returns its URL."""
    url = f"unix://{_server}"
    monkeypatch.setenv("FUMEHOOD_URL", url)
    return url


@pytest.fixture
def client(server: str) -> Iterator[Client]:
    """A client of the real server."""
    with Client(server) as client:
        yield client


def wait_until(what: str, holds: Callable[[], object], seconds: float = 60) -> None:
    """Waits for a condition."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.05)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reasons = {
        "vm": ("FUMEHOOD_BIN", "names no program: `cargo xtask test` builds it and the image"),
        "index": ("FUMEHOOD_INDEX_TESTS", "is not set"),
    }
    for item in items:
        for mark, (name, why) in reasons.items():
            if item.get_closest_marker(mark) and not os.environ.get(name):
                item.add_marker(pytest.mark.skip(reason=f"{name} {why}"))

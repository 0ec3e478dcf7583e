"""Interrupted and vanished clients, and killed servers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import fumehood
from breaking_proxy import BreakingProxy
from conftest import stop_servers, wait_until
from fumehood import Client, Sandbox, _local_server

pytestmark = pytest.mark.vm

LOOP = "print('ready', flush=True)\nwhile True: pass"

PROGRAM = f"""
import signal, sys
from fumehood import Client
# Whoever started the tests may have had this signal ignored, as shells do for background jobs.
signal.signal(signal.SIGINT, signal.default_int_handler)
run = Client().stream({LOOP!r}, timeout=120, detach=len(sys.argv) > 1)
for event in run:
    if type(event).__name__ == "StdoutEvent":
        print(run.id, flush=True)
"""


def start_client(*words: str) -> tuple[subprocess.Popen[str], str]:
    """Starts a program that follows an endless run. Returns it and the run's ID."""
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert program.stdout
    run_id = program.stdout.readline().strip()
    assert run_id.startswith("run_"), program.communicate()
    return program, run_id


def ended_by(client: Client, run_id: str, seconds: float) -> str:
    wait_until("the run's end", lambda: client.run_info(run_id)["state"] == "ended", seconds)
    return str(client.run_info(run_id)["ended_by"])


def test_an_interrupt_at_the_keyboard_cancels_the_run(client: Client) -> None:
    program, run_id = start_client()
    program.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in program.communicate(timeout=60)[1]
    assert ended_by(client, run_id, 30) == "cancelled"


def test_only_the_run_of_a_vanished_client_is_cancelled(client: Client) -> None:
    with Sandbox(client=client) as sandbox:
        sandbox.run("x = 1")
        detached, kept_id = start_client("detach")
        program, run_id = start_client()
        for one in (program, detached):
            one.kill()
            one.communicate()
        assert ended_by(client, run_id, 30) == "cancelled"
        assert client.run_info(kept_id)["state"] == "running"
        assert sandbox.run("x").text == "1"
        client.attach(kept_id).cancel()
        assert ended_by(client, kept_id, 30) == "cancelled"


def test_a_run_is_executed_once_whatever_happens_to_its_connections(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import os, uuid\nprint(uuid.uuid4())\nfor n in range(3000): print(n, 'x' * 80)\nopen('acted', 'a').write('x')"
    # Before and in the response head, in the first event, and repeatedly in the output.
    cuts = [1, 100, 200, 1_000, 5_000, 50_000, 100_000]
    breaking = BreakingProxy(tmp_path / "s", Path(server.removeprefix("unix://")), cuts)
    try:
        with Client(f"unix://{tmp_path / 's'}") as client, Sandbox(client=Client(server)) as straight:
            sandbox = Sandbox.get(straight.id, client=Client(server))
            sandbox._transport = client.transport
            outcome = sandbox.run(code, timeout=120)
            lines = outcome.stdout.splitlines()
            assert outcome.ok and lines[1:] == [f"{n} {'x' * 80}" for n in range(3000)]
            assert straight.files.read("acted") == b"x"
            assert breaking.connections > 4
            # An answered request with side effects is not repeated either.
            breaking._cuts = [1, 30]
            client.transport._http = None
            acting = Sandbox.get(straight.id, client=Client(server))
            acting._transport = client.transport
            assert len(acting.fork(1)) == 1
            assert len(client.sandboxes(state="running")) == 2
    finally:
        breaking.close()


@pytest.fixture
def own_server(private_dirs: Path) -> Iterator[Path]:
    """The private directory of local servers."""
    yield private_dirs
    stop_servers()


ASK = "from fumehood import run, _local_server; print(run('print(1)').stdout.strip(), len(_local_server._started_servers))"


def test_concurrent_processes_start_one_server(own_server: Path) -> None:
    asking = [subprocess.Popen([sys.executable, "-c", ASK], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    told = sorted(one.communicate(timeout=120)[0].strip() for one in asking)
    assert told == ["1 0", "1 0", "1 1"]
    pid = server_of(own_server)
    os.kill(pid, signal.SIGTERM)
    wait_until("the server's end", lambda: not Path(f"/proc/{pid}").exists())
    assert not (own_server / "run/fumehood/server.sock").exists()


def server_of(place: Path) -> int:
    """Returns the process ID of the server started there."""
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = process.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"serve" in words and str(place).encode() in b" ".join(words):
            return int(process.parent.name)
    raise AssertionError("there is no server")


def test_a_killed_server_is_reported_and_replaced(own_server: Path) -> None:
    client = Client()
    sandbox = Sandbox(client=client)
    (server,) = _local_server._started_servers
    failures: list[BaseException] = []

    def follow() -> None:
        try:
            client.run(LOOP, timeout=120, on_stdout=lambda _: server.kill())
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=follow)
    thread.start()
    thread.join(60)
    server.wait(10)
    assert isinstance(failures[0], fumehood.LostError) and failures[0].retry == "unknown", failures
    # The next use starts a new server, which knows the state of all runs.
    assert client.run("print(1)").stdout == "1\n"
    assert len(_local_server._started_servers) == 1 and _local_server._started_servers[0].pid != server.pid
    with pytest.raises(fumehood.LostError) as raised:
        sandbox.run("1")
    assert raised.value.ended == "server_lost"
    assert sandbox.info().ended == "server_lost"
    lost = [run for run in client.runs() if run.ended_by == "server_lost"]
    assert len(lost) == 1

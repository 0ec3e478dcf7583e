"""Runs in real VMs, through a real server."""

from __future__ import annotations

import asyncio
import sys
import types
from pathlib import Path

import pytest

import fumehood
from conftest import wait_until
from fumehood import AsyncClient, Client, PortExposedEvent, NetworkEvent, StdoutEvent, arun, astream, run

pytestmark = [pytest.mark.vm, pytest.mark.usefixtures("server")]


def test_code_runs_in_each_language() -> None:
    outcome = run("import sys; print(6 * 7); print('no', file=sys.stderr); sys.exit(3)")
    assert (outcome.stdout, outcome.stderr, outcome.exit_code, outcome.ended_by) == ("42\n", "no\n", 3, "exited")
    assert outcome.source in ("hot", "hot_image", "template", "boot") and outcome.accelerator
    assert outcome.timing.total_ms and outcome.timing.first_output_ms and outcome.evidence.cpu_time_us is not None
    assert run("console.log(6 * 7)", language="javascript").stdout == "42\n"
    assert run("echo $((6 * 7))", language="shell").stdout == "42\n"


def test_code_receives_its_arguments() -> None:
    code = "import os, sys; print(os.environ['A'], os.path.basename(os.getcwd()), sys.stdin.read())"
    assert run(code, env={"A": "b"}, cwd="/tmp", stdin="input ä").stdout == "b tmp input ä\n"
    raw = run("import sys; print(list(sys.stdin.buffer.read()))", stdin=b"\xff\x00")
    assert raw.stdout == "[255, 0]\n"
    large = run("import os; print(os.sysconf('SC_PHYS_PAGES') * 4096 >> 20)", memory_mib=1024)
    assert 700 < int(large.stdout) <= 1024


def test_files_go_in_and_out(tmp_path: Path) -> None:
    local = tmp_path / "local"
    local.write_bytes(bytes(range(256)))
    code = "open('out', 'wb').write(open('a', 'rb').read()); open('sum', 'w').write(open('dir/b').read() * 2); exit(3)"
    outcome = run(code, uploads={"a": local, "dir/b": "é"}, downloads=["out", "sum", "absent"])
    assert outcome.exit_code == 3
    assert outcome.files == {"out": bytes(range(256)), "sum": "éé".encode()}
    assert [download.remote for download in outcome.downloads if download.error] == ["absent"]


def test_outcomes_are_distinguished() -> None:
    assert run("while True: pass", timeout=1).ended_by == "timeout"
    assert run("import os; os.kill(os.getpid(), 9)").ended_by == "signaled"
    assert run("x = 'x' * (1 << 40)").exit_code == 1
    with pytest.raises(fumehood.RunFailedError, match="ValueError: no") as raised:
        run("raise ValueError('no')", check=True)
    assert raised.value.outcome.exit_code == 1


def test_errors_name_the_limit() -> None:
    with pytest.raises(fumehood.InvalidError) as raised:
        run("1", language="cobol")
    assert raised.value.retry == "never" and raised.value.status == 400 and raised.value.request_id
    with pytest.raises(fumehood.InvalidError, match="timeout|300"):
        run("1", timeout=1000)
    with pytest.raises(fumehood.InvalidError):
        run("1", network=["not a host"])


def test_bytes_are_exact() -> None:
    outcome = run("import os; os.write(1, bytes(range(256)) * 4096)")
    assert outcome.stdout_bytes == bytes(range(256)) * 4096 and not outcome.stdout_truncated


def test_output_beyond_the_limit_is_marked_as_truncated() -> None:
    outcome = run("import sys; sys.stdout.write('x' * (11 << 20))", timeout=120)
    assert outcome.ok and outcome.stdout_truncated and len(outcome.stdout_bytes) == 10 << 20


RICH = """
class Table:
    def _repr_html_(self): return '<b>table</b>'
    def __repr__(self): return 'a table'
class Image:
    def _repr_png_(self): return b'\\x89PNG'
display(Image())
Table()
"""


def test_values_have_several_formats(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[fumehood.Result] = []
    outcome = run("print('out')\n" + RICH, on_result=seen.append)
    image, table = outcome.results
    assert seen == outcome.results and image.png == b"\x89PNG"
    assert (table.text, table.html) == ("a table", "<b>table</b>")
    bundle = table._repr_mimebundle_()
    assert bundle["text/plain"] == "a table" and "&lt;b&gt;table" in bundle["text/html"]
    # The display of an outcome in a notebook.
    shown: list[object] = []
    display = types.ModuleType("IPython.display")
    display.display = shown.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    outcome._ipython_display_()
    assert shown == [image, table] and capsys.readouterr().out == "out\n"


def test_output_is_streamed(client: Client) -> None:
    code = "print('ready', flush=True); print(input()[::-1])"
    with client.stream(code, stdin=True) as following:
        for event in following:
            if event == StdoutEvent(b"ready\n"):
                # The program waits for this input: the output arrived before its end.
                following.stdin.write("abc\n")
                following.stdin.close()
        assert following.outcome().stdout == "ready\ncba\n"


def test_leaving_an_endless_run_cancels_it(client: Client) -> None:
    with client.stream("print(1, flush=True)\nwhile True: pass", timeout=60) as following:
        assert next(iter(following)) == StdoutEvent(b"1\n")
        run_id = following.id or ""
    wait_until("its end", lambda: client.run_info(run_id)["state"] == "ended")
    assert client.run_info(run_id)["ended_by"] == "cancelled"


def test_input_may_be_written_before_anything_is_read(client: Client) -> None:
    with client.stream("print(input()); print(input())", stdin=True) as following:
        following.stdin.write("a\nb\n")
        following.stdin.close()
        assert following.outcome().stdout == "a\nb\n"


def test_the_same_key_returns_the_same_run(client: Client) -> None:
    code = "import uuid; print(uuid.uuid4())"
    first, second = (client.run(code, idempotency_key="sdk-test-one") for _ in range(2))
    assert first.stdout == second.stdout and first.id == second.id
    with pytest.raises(fumehood.ConflictError):
        client.run("print(2)", idempotency_key="sdk-test-one")


def test_a_detached_run_continues_and_can_be_attached_to(client: Client) -> None:
    left = client.stream("import time; print('a', flush=True); time.sleep(4); print('b')", detach=True)
    assert next(iter(left)) == StdoutEvent(b"a\n")
    left.close()
    assert left.id and client.attach(left.id).wait().stdout == "a\nb\n"
    assert left.id in [known.id for known in client.runs(limit=5)]
    assert client.run_info(left.id)["ended_by"] == "exited"


def test_a_denied_connection_is_reported() -> None:
    code = "import urllib.request\ntry: urllib.request.urlopen('http://denied.example')\nexcept Exception as e: print(e)"
    outcome = run(code, network=["allowed.example"])
    assert "403" in outcome.stdout and outcome.network
    assert outcome.network["denials"][0]["name"] == "denied.example"
    following = fumehood.stream(code, network=fumehood.Network(expose=[8080]))
    events = list(following)
    assert any(isinstance(event, NetworkEvent) and not event.allowed for event in events)
    assert any(isinstance(event, PortExposedEvent) and event.url.startswith("http://127.0.0.1:") for event in events)
    assert run("import os; print(os.listdir('/sys/class/net'))").stdout == "['lo']\n"


def test_the_asynchronous_half_does_the_same() -> None:
    async def main() -> None:
        outcomes = await asyncio.gather(*(arun(f"print({n})") for n in range(3)))
        assert [outcome.stdout for outcome in outcomes] == ["0\n", "1\n", "2\n"]
        async with astream("print(1); 2 + 3", display=True) as following:
            kinds = [type(event).__name__ async for event in following]
        assert kinds == ["StdoutEvent", "ResultEvent"]
        assert (await following.outcome()).text == "5"

    asyncio.run(main())
    # Another event loop has separate connections.
    asyncio.run(main())


def test_a_cancelled_task_cancels_its_run(client: Client) -> None:
    async def main() -> str:
        started = asyncio.Event()
        async with AsyncClient() as own:
            following = own.stream("print(1, flush=True)\nwhile True: pass", on_stdout=lambda _: started.set())
            task = asyncio.create_task(following.run_to_end())
            await asyncio.wait_for(started.wait(), 60)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return following.id or ""

    run_id = asyncio.run(main())
    wait_until("its end", lambda: client.run_info(run_id)["state"] == "ended", 20)
    assert client.run_info(run_id)["ended_by"] == "cancelled"

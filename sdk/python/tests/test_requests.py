"""Requests, retries and runs, against a mock server. The same tests cover both halves."""

from __future__ import annotations

import asyncio
import gc
import os
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Optional

import httpx
import pytest

import fumehood
from fumehood import AsyncClient, AsyncSandbox, Client, Sandbox, StartedEvent, StderrEvent, StdoutEvent
from fumehood._models import Checkpoint, RunningProgram, SandboxInfo, dataclass_from
from conftest import wait_until
from mock import ENDED, RUN, Server, refusal, sse, stream

OUTPUT = (("run", RUN), ("started", {"pid": 9}), ("stdout", {"text": "one\n"}), ("stderr", {"base64": "/w=="}))
WHOLE = sse(*OUTPUT, ("result", {"text/plain": "6"}), ("ended", ENDED))

pytestmark = pytest.mark.usefixtures("no_pauses")

Do = Callable[..., Any]


def by_sync(server: Server, method: str, *words: Any, **how: Any) -> Any:
    with Client("http://x", "fh_key", transport=server.transport) as client:
        return getattr(client, method)(*words, **how)


def by_async(server: Server, method: str, *words: Any, **how: Any) -> Any:
    async def main() -> Any:
        async with AsyncClient("http://x", "fh_key", transport=server.transport) as client:
            return await getattr(client, method)(*words, **how)

    return asyncio.run(main())


@pytest.fixture(params=[by_sync, by_async], ids=["sync", "async"])
def do(request: pytest.FixtureRequest) -> Do:
    return request.param  # type: ignore[no-any-return]


def test_a_run_is_followed_until_it_ends(do: Do) -> None:
    server, seen = Server(stream(WHOLE)), []
    outcome = do(server, "run", "print(1)", env={"A": "b"}, on_stdout=seen.append, on_result=seen.append)
    assert (outcome.stdout, outcome.stderr, outcome.exit_code, outcome.ended_by) == ("one\n", "\ufffd", 0, "exited")
    assert outcome.text == "6" and outcome.timing.total_ms == 5.0 and outcome.id == "run_1"
    assert seen[0] == "one\n" and seen[1].text == "6"
    request = server.requests[0]
    assert server.asked() == ["POST /v1/runs"]
    assert server.body() == {"language": "python", "code": "print(1)", "env": {"A": "b"}, "display": True}
    server = Server(stream(WHOLE))
    do(server, "run", "1")
    assert server.body() == {"language": "python", "code": "1"}
    assert request.headers["accept"] == "text/event-stream"
    assert request.headers["authorization"] == "Bearer fh_key"
    assert request.headers["idempotency-key"] and request.headers["x-request-id"]


def test_callbacks_may_be_asynchronous() -> None:
    seen = []

    async def tell(text: str) -> None:
        await asyncio.sleep(0)
        seen.append(text)

    by_async(Server(stream(WHOLE)), "run", "1", on_stdout=tell)
    assert seen == ["one\n"]


def test_a_run_that_failed_raises_its_error(do: Do) -> None:
    failed = ("failed", {"kind": "boot", "retry": "safe", "message": "no VM"})
    with pytest.raises(fumehood.BootError, match="no VM") as raised:
        do(Server(stream(sse(("run", RUN), failed))), "run", "1")
    assert raised.value.retry == "safe"


def test_check_raises_with_the_outcome(do: Do) -> None:
    server = Server(stream(sse(*OUTPUT, ("ended", {**ENDED, "exit_code": 1}))))
    with pytest.raises(fumehood.RunFailedError) as raised:
        do(server, "run", "1", check=True)
    assert raised.value.outcome.stdout == "one\n"
    # The run has ended: there is nothing to cancel.
    assert server.asked() == ["POST /v1/runs"]


@pytest.mark.parametrize("kind", ["ends", "breaks"])
def test_a_broken_stream_resumes(do: Do, kind: str) -> None:
    first = sse(*OUTPUT)[:-3]
    broken = [first] if kind == "ends" else [first, httpx.ReadError("gone")]
    rest = sse(OUTPUT[3], ("ended", ENDED), first=4)
    server = Server(stream(*broken), stream(rest))
    outcome = do(server, "run", "1")
    assert (outcome.stdout, outcome.stderr_bytes) == ("one\n", b"\xff")
    assert server.asked() == ["POST /v1/runs", "GET /v1/runs/run_1/events"]
    assert server.requests[1].headers["last-event-id"] == "3"


def test_a_start_without_an_answer_is_retried_with_the_same_key(do: Do) -> None:
    server = Server(httpx.ReadError("gone"), stream(b": hello\n\n"), stream(WHOLE))
    assert do(server, "run", "1").ok
    assert server.asked() == ["POST /v1/runs"] * 3
    assert len(set(server.keys())) == 1


def test_a_lost_server_is_reported(do: Do) -> None:
    server = Server(stream(sse(*OUTPUT)), httpx.ConnectError("refused"))
    with pytest.raises(fumehood.LostError, match="run_1") as raised:
        do(server, "run", "1")
    assert raised.value.retry == "unknown"
    # The number of requests is bounded, including the attempt to cancel.
    assert len(server.requests) <= 14


def test_an_unreachable_server_is_reported(do: Do) -> None:
    server = Server(httpx.ConnectError("refused"))
    with pytest.raises(fumehood.ServerError, match="could not be reached") as raised:
        do(server, "run", "1")
    assert raised.value.retry == "safe" and len(server.requests) == 6


def test_requests_with_side_effects_are_retried_with_the_same_key(do: Do) -> None:
    server = Server(httpx.ReadError("gone"), httpx.RemoteProtocolError("gone"), httpx.Response(204))
    do(server, "delete_checkpoint", "cp_1")
    assert len(server.requests) == 3 and len(set(server.keys())) == 1 and server.keys()[0]


def test_a_timeout_is_not_retried(do: Do) -> None:
    server = Server(httpx.ReadTimeout("slow"))
    with pytest.raises(fumehood.DeadlineError) as raised:
        do(server, "info")
    assert len(server.requests) == 1 and raised.value.retry == "safe"


def test_errors_of_the_server_are_not_retried(do: Do) -> None:
    answer = refusal(429, "busy", "safe")
    answer.headers["Retry-After"] = "3"
    server = Server(answer)
    with pytest.raises(fumehood.BusyError) as raised:
        do(server, "run", "1")
    error = raised.value
    assert (error.retry_after, error.retry, error.status, error.request_id) == (3.0, "safe", 429, "r1")
    assert len(server.requests) == 1


def test_an_answer_that_is_not_json_is_reported(do: Do) -> None:
    for body in (b"<html>", b"[]"):
        with pytest.raises(fumehood.ProtocolError):
            do(Server(httpx.Response(200, content=body)), "info")
    with pytest.raises(fumehood.ProtocolError, match="502"):
        do(Server(httpx.Response(502, content=b"<html>")), "info")


def test_lists_are_paginated(do: Do) -> None:
    page = [{"id": f"run_{n}"} for n in range(100)]
    server = Server(httpx.Response(200, json={"runs": page}), httpx.Response(200, json={"runs": page[:5]}))
    assert len(do(server, "runs", state="ended")) == 105
    assert dict(server.requests[1].url.params) == {"state": "ended", "limit": "100", "before": "run_99"}
    server = Server(httpx.Response(200, json={"runs": page[:7]}))
    assert len(do(server, "runs", limit=7)) == 7 and len(server.requests) == 1


def test_an_interrupt_cancels_the_run() -> None:
    server = Server(stream(sse(*OUTPUT), KeyboardInterrupt()), httpx.Response(204))
    with pytest.raises(KeyboardInterrupt):
        by_sync(server, "run", "1")
    assert server.asked() == ["POST /v1/runs", "POST /v1/runs/run_1/cancel"]


def test_a_callback_that_raises_cancels_the_run(do: Do) -> None:
    def tell(text: str) -> None:
        raise ZeroDivisionError

    server = Server(stream(sse(*OUTPUT)), httpx.Response(204))
    with pytest.raises(ZeroDivisionError):
        do(server, "run", "1", on_stdout=tell)
    assert server.asked()[-1] == "POST /v1/runs/run_1/cancel"


def test_a_cancelled_task_cancels_the_run() -> None:
    class Endless(httpx.AsyncByteStream):
        async def __aiter__(self) -> Any:
            yield sse(*OUTPUT)
            await asyncio.Event().wait()

    server = Server(httpx.Response(200, stream=Endless()), httpx.Response(204))

    async def main() -> None:
        came = asyncio.Event()
        client = AsyncClient("http://x", transport=server.transport)
        task = asyncio.create_task(client.run("1", on_stdout=lambda _: came.set()))
        await asyncio.wait_for(came.wait(), 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert server.asked() == ["POST /v1/runs", "POST /v1/runs/run_1/cancel"]


def test_leaving_a_stream_early_cancels_the_run() -> None:
    server = Server(stream(WHOLE), httpx.Response(204))
    client = Client("http://x", transport=server.transport)
    with client.stream("1") as run:
        assert [type(event) for event, _ in zip(run, range(2))] == [StartedEvent, StdoutEvent]
    assert server.asked() == ["POST /v1/runs", "POST /v1/runs/run_1/cancel"]


def test_a_dropped_run_closes_its_connection() -> None:
    answer = stream(sse(*OUTPUT), sse(*OUTPUT))
    client = Client("http://x", transport=Server(answer).transport)
    run = client.stream("1")
    next(iter(run))
    # Immediately, without the help of the cycle collector.
    gc.disable()
    try:
        del run
        wait_until("the end of its connection", lambda: answer.is_closed, 5)
    finally:
        gc.enable()


def test_a_dropped_asynchronous_run_closes_its_connection() -> None:
    answer = stream(sse(*OUTPUT), sse(*OUTPUT))

    async def main() -> None:
        run = AsyncClient("http://x", transport=Server(answer).transport).stream("1")
        assert isinstance(await run.events().__anext__(), StartedEvent)
        del run
        gc.collect()
        for _ in range(100):
            await asyncio.sleep(0.01)
            if answer.is_closed:
                return
        raise AssertionError("the run is still followed")

    asyncio.run(main())


def test_events_are_typed_and_ordered() -> None:
    client = Client("http://x", transport=Server(stream(WHOLE)).transport)
    run = client.stream("1")
    events = list(run)
    assert events[:3] == [StartedEvent(9), StdoutEvent(b"one\n"), StderrEvent(b"\xff")]
    # The outcome includes the output of the events.
    assert run.outcome().stdout == "one\n" and run.has_ended


def test_binary_input_is_sent_after_the_start() -> None:
    server = Server(stream(sse(*OUTPUT), sse(("ended", ENDED), first=5)), httpx.Response(204))
    server.answers = [server.answers[0], httpx.Response(204)]
    assert by_sync(server, "run", "1", stdin=b"\xff\x00").ok
    assert server.body()["stdin"] is True
    assert server.asked()[1:] == ["POST /v1/runs/run_1/stdin"] * 2
    assert server.bodies[1] == b"\xff\x00" and server.requests[2].url.params["close"] == "true"


def started_sandbox() -> httpx.Response:
    return httpx.Response(201, json={"id": "sb_1", "state": "running", "urls": [], "novel": 1})


def test_a_sandbox_lives_as_long_as_its_block() -> None:
    server = Server(started_sandbox(), stream(WHOLE), httpx.Response(200, json={"id": "sb_1", "state": "ended"}))
    client = Client("http://x", transport=server.transport)
    with Sandbox(client=client, packages=["six==1.*"], env={"A": "1", "B": "2"}) as sandbox:
        assert sandbox.run("x", env={"B": "3"}).text == "6"
    assert server.asked() == ["POST /v1/sandboxes", "POST /v1/sandboxes/sb_1/runs", "DELETE /v1/sandboxes/sb_1"]
    assert server.body() == {"language": "python", "idle_timeout_s": 300, "packages": ["six==1.*"]}
    assert server.body(1)["context"] == "main" and server.body(1)["env"] == {"A": "1", "B": "3"}


def test_an_asynchronous_sandbox_starts_when_awaited() -> None:
    server = Server(started_sandbox(), stream(WHOLE), httpx.Response(200, json={"id": "sb_1"}))

    async def main() -> None:
        client = AsyncClient("http://x", transport=server.transport)
        sandbox = AsyncSandbox(client=client)
        with pytest.raises(fumehood.FumehoodError, match="has not been started"):
            sandbox.id  # noqa: B018
        async with sandbox:
            assert (await sandbox.run("x")).text == "6"

    asyncio.run(main())
    assert server.asked()[-1] == "DELETE /v1/sandboxes/sb_1"


def test_another_language_has_another_main_context() -> None:
    server = Server(started_sandbox(), stream(WHOLE), stream(WHOLE), stream(WHOLE))
    sandbox = Sandbox(client=Client("http://x", transport=server.transport))
    sandbox.run("1", language="javascript")
    sandbox.run("1", context=None)
    assert server.body(1)["context"] == "main-javascript" and "context" not in server.body(2)


def sandbox_of(language: Optional[str]) -> httpx.Response:
    return httpx.Response(200, json={"id": "sb_1", "state": "running", "urls": [], "language": language})


def test_all_handles_of_a_sandbox_agree_on_its_main_context() -> None:
    """A handle that was found by its ID must not take the main context for another language."""
    expected = {
        (None, None): ("javascript", "main"),
        ("python", None): ("python", "main-python"),
        ("js", None): ("javascript", "main"),
        (None, "py"): ("python", "main-python"),
        (None, "typescript"): ("javascript", "main"),
    }
    for (default, language), (sent, context) in expected.items():
        server = Server(sandbox_of("javascript"), stream(WHOLE))
        sandbox = Sandbox.get("sb_1", language=default, client=Client("http://x", transport=server.transport))
        sandbox.run("1", language=language)
        assert (server.body(1)["language"], server.body(1)["context"]) == (sent, context)


def test_programs_that_were_left_running_are_parsed() -> None:
    data = {"id": "x", "running_programs": [{"pid": 7, "name": "nginx"}], "running_program_count": 40}
    checkpoint = dataclass_from(Checkpoint, data)
    assert checkpoint.running_programs == [RunningProgram(7, "nginx")]
    assert checkpoint.running_program_count == 40
    assert dataclass_from(SandboxInfo, {"id": "x"}).inherited_programs == []


def test_a_sandbox_from_a_checkpoint_has_its_language() -> None:
    server = Server(sandbox_of("shell"), stream(WHOLE))
    sandbox = Sandbox(checkpoint="cp_1", client=Client("http://x", transport=server.transport))
    sandbox.run("echo 1")
    assert sandbox.language == "shell" and "language" not in server.body(0)
    assert (server.body(1)["language"], server.body(1)["context"]) == ("shell", "main")

    async def main() -> None:
        server = Server(sandbox_of("shell"), stream(WHOLE))
        client = AsyncClient("http://x", transport=server.transport)
        await AsyncSandbox(checkpoint="cp_1", client=client).run("echo 1")
        assert (server.body(1)["language"], server.body(1)["context"]) == ("shell", "main")

    asyncio.run(main())


def test_arguments_are_a_list() -> None:
    server = Server(stream(WHOLE))
    assert by_sync(server, "run", "x", args=["--n", "5"]).ok
    assert server.body()["args"] == ["--n", "5"]
    sandbox = Sandbox(client=Client("http://x", transport=Server(started_sandbox()).transport))
    for run in [sandbox.run, lambda *words, **how: by_sync(server, "run", *words, **how)]:
        with pytest.raises(fumehood.InvalidError, match="expected a list of arguments, such as"):
            run("x", args="--n 5")


def test_a_wait_times_out_and_the_process_continues() -> None:
    waiting = stream(sse(*OUTPUT[2:3], first=3))
    followed = stream(sse(("ended", ENDED), first=4))
    server = Server(started_sandbox(), stream(sse(*OUTPUT[:2])), waiting, followed, httpx.Response(204))
    sandbox = Sandbox(client=Client("http://x", transport=server.transport))
    process = sandbox.spawn(["sleep", "9"])
    assert process.pid == 9
    with pytest.raises(TimeoutError):
        process.wait(timeout=0)
    # The client attaches again immediately; no event is lost or repeated.
    assert server.asked()[2:] == ["GET /v1/runs/run_1/events"] * 2
    assert [request.headers["last-event-id"] for request in server.requests[2:]] == ["2", "3"]
    assert process.wait().stdout == "one\n"
    assert len(server.requests) == 4


def test_files_are_uploaded_and_downloaded(tmp_path: Any) -> None:
    info = {"path": "a", "kind": "file", "size": 3, "mode": 0o644}
    answers = [started_sandbox(), httpx.Response(200, json=info), httpx.Response(200, content=b"abc")]
    answers += [httpx.Response(200, json={"entries": [info]}), refusal(404, "not_found", io="not_found")]
    server = Server(*answers)
    sandbox = Sandbox(client=Client("http://x", transport=server.transport))
    local = tmp_path / "file"
    local.write_bytes(b"x" * 600_000)
    assert sandbox.files.upload(local, "a", mode=0o755).size == 3
    assert server.bodies[1] == b"x" * 600_000
    assert dict(server.requests[1].url.params) == {"path": "a", "parents": "true", "mode": "755"}
    to = sandbox.files.download("dir/a", tmp_path)
    assert to == tmp_path / "a" and to.read_bytes() == b"abc" and to.stat().st_mode & 0o600 == 0o600
    assert sandbox.files.list("d")[0].size == 3
    assert not sandbox.files.exists("nowhere")
    with pytest.raises(fumehood.NotFoundError) as raised:
        sandbox.files.download("gone", tmp_path / "b")
    assert raised.value.io == "not_found"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "file"]


def in_sandbox(server: Server, is_async: bool, do: Callable[..., Any]) -> None:
    """Applies a function to a sandbox of one half of the SDK."""
    if not is_async:
        do(Sandbox(client=Client("http://x", transport=server.transport)))
        return

    async def main() -> None:
        async with AsyncClient("http://x", transport=server.transport) as client:
            sandbox = AsyncSandbox(client=client)
            await sandbox.start()
            await do(sandbox)

    asyncio.run(main())


both = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])


@both
@pytest.mark.parametrize("name", ["../../sb_other", "a/b", "a?b=c", "a%2Fb", "ä#"])
def test_names_stay_within_their_segment_of_a_path(is_async: bool, name: str) -> None:
    server = Server(started_sandbox(), httpx.Response(204))
    in_sandbox(server, is_async, lambda sandbox: sandbox.close_context(name))
    path = server.requests[-1].url.raw_path.decode()
    assert path.startswith("/v1/sandboxes/sb_1/contexts/") and path.count("/") == 5, path
    assert urllib.parse.unquote(path.rsplit("/", 1)[1]) == name and "?" not in path

    by = by_async if is_async else by_sync
    for method in ("run_info", "delete_checkpoint"):
        server = Server(httpx.Response(200, json={}))
        by(server, method, name)
        assert server.requests[-1].url.raw_path.decode().count("/") == 3


@both
@pytest.mark.parametrize("name", ["", ".", ".."])
def test_names_that_mean_other_paths_are_refused(is_async: bool, name: str) -> None:
    server = Server(started_sandbox())
    by = by_async if is_async else by_sync
    with pytest.raises(fumehood.InvalidError):
        in_sandbox(server, is_async, lambda sandbox: sandbox.close_context(name))
    for method in ("run_info", "delete_checkpoint"):
        with pytest.raises(fumehood.InvalidError):
            by(server, method, name)
    assert server.asked() == ["POST /v1/sandboxes"]


@both
def test_uploads_announce_their_length(is_async: bool, tmp_path: Path) -> None:
    def sent(file: BinaryIO) -> httpx.Request:
        stat = {"name": "x", "path": "/x", "kind": "file", "size": 1}
        server = Server(started_sandbox(), httpx.Response(200, json=stat))
        in_sandbox(server, is_async, lambda sandbox: sandbox.files.write("x", file))
        return server.requests[-1]

    local = tmp_path / "x"
    local.write_bytes(b"x" * 2_000_000)
    with open(local, "rb") as file:
        file.seek(500_000)
        request = sent(file)
    assert request.headers["content-length"] == "1500000" and "transfer-encoding" not in request.headers
    assert len(request.content) == 1_500_000

    # What does not say its length is sent without one.
    reader, writer = os.pipe()
    os.write(writer, b"abc")
    os.close(writer)
    with open(reader, "rb") as pipe, open("/proc/self/status", "rb") as status:
        for file in (pipe, status):
            request = sent(file)
            assert "content-length" not in request.headers and request.content

"""Sandboxes, their files and programs, in real VMs."""

from __future__ import annotations

import asyncio
import io
import os
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import fumehood
from conftest import wait_until
from fumehood import AsyncSandbox, Client, Network, UnknownEvent, Sandbox, StdoutEvent

pytestmark = [pytest.mark.vm, pytest.mark.usefixtures("server")]


@pytest.fixture(scope="module")
def sandbox(_server: Path) -> Iterator[Sandbox]:
    """A sandbox shared by tests that do not end it."""
    with Sandbox(idle_timeout=600, client=Client(f"unix://{_server}")) as sandbox:
        yield sandbox


def test_contexts_keep_their_state(sandbox: Sandbox) -> None:
    sandbox.run("x = 1")
    assert sandbox.run("x + 1").results[0].text == "2"
    assert "NameError" in sandbox.run("x", context="other").stderr
    assert "NameError" in sandbox.run("x", context=None).stderr
    sandbox.run("let y = 3", language="javascript")
    assert sandbox.run("y + 1", language="javascript").text == "4"
    sandbox.run("z=5", language="shell")
    assert sandbox.run("echo $z", language="shell").stdout == "5\n"
    sandbox.close_context("other")
    assert sandbox.run("x", check=True).text == "1"


def test_an_error_leaves_the_context_as_it_is(sandbox: Sandbox) -> None:
    sandbox.run("kept = 1")
    assert sandbox.run("while True: pass", timeout=1).ended_by == "timeout"
    assert sandbox.run("1 / 0").exit_code == 1
    assert sandbox.run("kept").text == "1"


def test_files_go_both_ways(sandbox: Sandbox, tmp_path: Path) -> None:
    files = sandbox.files
    info = files.write("dir/a.bin", bytes(range(256)), mode=0o600)
    assert (info.kind, info.size, info.mode) == ("file", 256, 0o600)
    assert files.read("dir/a.bin") == bytes(range(256)) and files.read_range("dir/a.bin", 1, 2) == b"\1\2"
    files.write_text("dir/ä ?&#.txt", "grüße")
    assert files.read_text("dir/ä ?&#.txt") == "grüße"
    assert sorted(Path(entry.path).name for entry in files.list("dir")) == ["a.bin", "ä ?&#.txt"]
    files.make_dir("dir/deep/er")
    assert len(files.list("dir", depth=3)) == 4 and files.stat("dir/deep").is_dir
    files.rename("dir/a.bin", "dir/b.bin")
    assert files.exists("dir/b.bin") and not files.exists("dir/a.bin")
    files.write("dir/empty", b"")
    assert files.read("dir/empty") == b""
    with pytest.raises(fumehood.ConflictError) as raised:
        files.rename("dir/empty", "dir/b.bin")
    assert raised.value.io == "already_exists"
    files.rename("dir/empty", "dir/b.bin", replace=True)
    with pytest.raises(fumehood.FumehoodError):
        files.remove("dir")
    files.remove("dir", recursive=True)
    assert not files.exists("dir")


def test_file_errors_are_distinguished(sandbox: Sandbox) -> None:
    with pytest.raises(fumehood.NotFoundError) as raised:
        sandbox.files.read("nowhere")
    assert raised.value.io == "not_found"
    with pytest.raises(fumehood.ForbiddenError) as denied:
        sandbox.files.write("/etc/passwd", b"x")
    assert denied.value.io == "permission_denied"
    with pytest.raises(fumehood.FumehoodError) as directory:
        sandbox.files.read("/tmp")
    assert directory.value.io == "is_a_directory"


def test_large_files_are_streamed(sandbox: Sandbox, tmp_path: Path) -> None:
    data = os.urandom(1 << 20) * 20
    local = tmp_path / "large"
    local.write_bytes(data)
    assert sandbox.files.upload(local, "large").size == len(data)
    assert sandbox.files.download("large", tmp_path / "back").read_bytes() == data
    assert b"".join(sandbox.files.stream("large")) == data
    assert sandbox.files.write("piece", io.BytesIO(b"abc")).size == 3
    sandbox.files.remove("large")


def test_programs_have_input_signals_and_an_end(sandbox: Sandbox) -> None:
    cat = sandbox.spawn(["cat"], tag="a cat")
    assert cat.pid and [p.tag for p in sandbox.processes() if p.pid == cat.pid] == ["a cat"]
    cat.stdin.write("one\n")
    assert next(iter(cat)) == StdoutEvent(b"one\n")
    with pytest.raises(TimeoutError):
        cat.wait(timeout=0.3)
    # The program is followed nevertheless.
    time.sleep(2.5)
    cat.stdin.write("two\n")
    cat.stdin.close()
    assert cat.wait().stdout == "one\ntwo\n"
    sleeper = sandbox.spawn(["sleep", "100"])
    sleeper.signal("SIGINT")
    assert sleeper.wait().ended_by == "signaled"
    sleeper = sandbox.spawn(["sleep", "100"])
    sleeper.kill()
    outcome = sleeper.wait()
    assert (outcome.ended_by, outcome.evidence.signal) == ("signaled", 9)
    with pytest.raises(fumehood.FumehoodError):
        sandbox.spawn(["no-such-program"])


def test_terminals_have_a_size(sandbox: Sandbox) -> None:
    program = sandbox.spawn(["sh", "-c", "stty size; read x; stty size"], pty=(24, 80))
    assert next(iter(program)).text.strip() == "24 80"
    program.resize(10, 20)
    program.stdin.write("\n")
    assert "10 20" in program.wait().stdout


def test_programs_can_be_started_detached(sandbox: Sandbox) -> None:
    left = sandbox.spawn(["sh", "-c", "sleep 4; echo done"], detach=True)
    left.close()
    assert left.id
    outcome = sandbox._client.attach(left.id).wait()
    assert (outcome.stdout, outcome.ended_by) == ("done\n", "exited")


def test_programs_can_be_detached_later(sandbox: Sandbox) -> None:
    with sandbox.spawn(["sh", "-c", "sleep 4; echo done"]) as left:
        left.detach()
    assert left.id and sandbox._client.attach(left.id).wait().stdout == "done\n"


def test_a_program_without_a_client_is_ended(sandbox: Sandbox) -> None:
    dropped = sandbox.spawn(["sleep", "100"])
    pid = dropped.pid
    del dropped
    wait_until("its end", lambda: all(p.pid != pid for p in sandbox.processes()), 20)


def test_forks_are_independent(sandbox: Sandbox) -> None:
    sandbox.run("shared = [1]; import subprocess; left = subprocess.Popen(['sleep', '100'])")
    first, second = sandbox.fork(2)
    with first, second:
        assert "sleep" in [program.name for program in first.info().inherited_programs]
        first.run("shared.append(2)")
        assert (first.run("shared").text, second.run("shared").text) == ("[1, 2]", "[1]")
        assert sandbox.run("shared").text == "[1]"
        assert len({sandbox.id, first.id, second.id}) == 3
    sandbox.run("left.kill(); left.wait()")


def test_checkpoints_are_restored(sandbox: Sandbox, client: Client) -> None:
    sandbox.run("saved = 'state'")
    checkpoint = sandbox.checkpoint()
    sandbox.run("saved = 'changed'")
    with Sandbox(checkpoint=checkpoint, client=client) as again:
        assert again.run("saved").text == "'state'"
        assert again.run("1").source == "checkpoint"
    assert checkpoint.id in [known.id for known in client.checkpoints()]
    client.delete_checkpoint(checkpoint.id)
    with pytest.raises(fumehood.NotFoundError):
        Sandbox(checkpoint=checkpoint.id, client=client)


def test_a_sandbox_is_found_extended_and_ended(client: Client) -> None:
    sandbox = Sandbox(idle_timeout=60, name="mine", memory_mib=256)
    again = Sandbox.get(sandbox.id)
    sandbox.run("x = 7")
    assert again.run("x").text == "7"
    listed = {info.id: info for info in Sandbox.list()}
    assert listed[sandbox.id].name == "mine" and listed[sandbox.id].memory_mib == 256
    assert sandbox.extend(idle_timeout=120, max_lifetime=500).idle_timeout_s == 120
    assert sandbox.info().max_lifetime_s == 500
    ended = sandbox.kill()
    assert (ended.state, ended.ended) == ("ended", "requested") and sandbox.kill().state == "ended"
    with pytest.raises(fumehood.LostError) as raised:
        again.run("x")
    assert raised.value.status == 410
    with pytest.raises(fumehood.NotFoundError):
        Sandbox.get("sb_nobody")
    assert sandbox.id not in [info.id for info in Sandbox.list()]
    assert sandbox.id in [info.id for info in Sandbox.list(state="ended")]


def test_a_sandbox_that_is_found_has_its_language(client: Client) -> None:
    with Sandbox("js", client=client) as sandbox:
        sandbox.run("let n = 41")
        found = Sandbox.get(sandbox.id, client=client)
        assert found.language == "javascript" and found.run("n += 1; n").text == "42"
        assert sandbox.run("print(7)", language="py").stdout == "7\n"
        # The original handle has still its main context.
        assert sandbox.run("n").text == "42"
        checkpoint = sandbox.checkpoint()
        assert checkpoint.language == "javascript"
        client.delete_checkpoint(checkpoint.id)
        with sandbox.fork()[0] as fork:
            assert fork.run("n").text == "42"


def test_installing_without_a_network_fails_at_once(client: Client) -> None:
    with Sandbox(client=client) as sandbox:
        for language in ["python", "javascript"]:
            spec = "six==1.16.0" if language == "python" else "lodash@^4"
            start = time.monotonic()
            with pytest.raises(fumehood.InvalidError, match=f"without a network.*index:{language}"):
                sandbox.install(spec, language=language)
            assert time.monotonic() - start < 5


def test_a_denied_index_is_explained(client: Client) -> None:
    with Sandbox(client=client, network=["example.com"]) as sandbox:
        with pytest.raises(fumehood.InvalidError, match="denies .*The rule index:python allows"):
            sandbox.install("six==1.16.0")


def test_an_idle_sandbox_ends_if_it_says_so() -> None:
    sandbox = Sandbox(idle_timeout=1, on_idle="end")
    wait_until("its end", lambda: sandbox.info().state == "ended", 30)
    assert sandbox.info().ended == "idle"


def test_an_idle_sandbox_is_paused_and_resumed_by_the_next_call(client: Client) -> None:
    with Sandbox(language="python", idle_timeout=1, client=client) as sandbox:
        sandbox.run("x = 41")
        wait_until("its pause", lambda: sandbox.info().state == "paused", 30)
        assert sandbox.run("print(x + 1)").stdout == "42\n"
        assert sandbox.pause().state == "paused"
        assert Sandbox.connect(sandbox.id, client=client).run("print(x)").stdout == "41\n"


def test_ports_are_reached() -> None:
    with Sandbox(network=Network()) as sandbox:
        web = sandbox.spawn(["python3", "-u", "-m", "http.server", "8080"])
        url = sandbox.expose(8080)
        assert url.startswith("http://127.0.0.1:")

        def answers() -> bool:
            try:
                return httpx.get(url, timeout=5, trust_env=False).status_code == 200
            except httpx.TransportError:
                return False

        wait_until("an answer", answers)
        assert url in sandbox.info().urls
        web.kill()


def test_a_sandbox_reports_its_events() -> None:
    with Sandbox() as sandbox:
        sandbox.run("1")
        names = []
        for event in sandbox.events():
            assert isinstance(event, UnknownEvent)
            names.append(event.name)
            if event.name == "run_ended":
                sandbox.kill()
        assert names[:2] == ["run_started", "run_ended"]


def test_the_asynchronous_half_does_the_same() -> None:
    async def main() -> None:
        async with AsyncSandbox() as sandbox:
            await sandbox.run("x = 1")
            assert (await sandbox.run("x + 1")).text == "2"
            await sandbox.files.write("f", b"data")
            assert await sandbox.files.read_text("f") == "data"
            assert {entry.name: entry.size for entry in await sandbox.files.list()}["f"] == 4
            cat = await sandbox.spawn(["cat"])
            await cat.stdin.write("hello")
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(cat.wait(), 0.3)
            # A cancelled wait does not end the program.
            await asyncio.sleep(2.5)
            await cat.stdin.close()
            assert (await cat.wait()).stdout == "hello"
            (child,) = await sandbox.fork()
            async with child:
                assert (await child.run("x")).text == "1"

    asyncio.run(main())

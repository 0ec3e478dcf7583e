#!/usr/bin/env python3
"""Checks the code blocks and links of the documentation.

    check.py --static
        checks syntax, links, anchors and info strings; needs nothing but Python
    check.py --run --fumehood PATH --sdk-python PATH [PAGE...]
        also executes the sh and python blocks in real VMs, page by page

CONTRIBUTING.md explains the info strings of code blocks. The crate in this directory compiles the rust blocks.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

try:
    import tomllib
except ImportError:  # Python 3.10
    tomllib = None

ROOT = Path(__file__).resolve().parents[2]
LANGUAGES = {"sh", "python", "rust", "toml", "json", "text"}
ATTRIBUTES = {"no-run"}
README_LINES = 150
BLOCK_S = 180
"""Seconds that one block may take."""
STOP_S = 60
"""Seconds that the servers of a page may take to stop."""


@dataclass
class Block:
    """A fenced code block."""

    page: Path
    line: int
    language: str
    attributes: set[str]
    reason: str
    code: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def runs(self) -> bool:
        return "no-run" not in self.attributes


def pages() -> list[Path]:
    """Every page whose blocks and links are checked."""
    top = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")]
    return [*top, *sorted((ROOT / "docs").rglob("*.md")), ROOT / "sdk/python/README.md"]


def blocks(page: Path) -> list[Block]:
    """The code blocks of a page."""
    found: list[Block] = []
    fence, lines = "", page.read_text().splitlines()
    for at, line in enumerate(lines, start=1):
        opening = re.match(r"^(\s*)(```+)(.*)$", line)
        if fence:
            if line.strip() == fence:
                fence = ""
            else:
                found[-1].code += line.removeprefix(indent) + "\n"
        elif opening:
            indent, fence, info = opening.groups()
            language, *attributes = info.split(",")
            above = lines[at - 2].strip() if at > 1 else ""
            reason = re.match(r"<!-- no-run: (.+) -->$", above)
            found.append(Block(page, at, language, set(attributes), reason.group(1) if reason else "", ""))
    return found


def prose(page: Path) -> str:
    """The text of a page without code blocks and inline code."""
    text = re.sub(r"^(\s*)```.*?^\s*```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "", text)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub derives them."""
    text = re.sub(r"^(\s*)```.*?^\s*```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} (.+)$", text, flags=re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        name, count = slug, 0
        while name in found:
            count += 1
            name = f"{slug}-{count}"
        found.add(name)
    return found


def check_links(page: Path) -> list[str]:
    """Links to files and anchors that do not exist."""
    faults = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists():
            faults.append(f"{page.relative_to(ROOT)}: the link {target} leads to no file")
        elif anchor and file.suffix == ".md" and anchor not in anchors(file):
            faults.append(f"{page.relative_to(ROOT)}: the link {target} leads to no heading")
    return faults


def check_block(block: Block) -> list[str]:
    """An unknown info string, a missing reason, a syntax error."""
    if block.language not in LANGUAGES or block.attributes - ATTRIBUTES:
        known = ", ".join(sorted(LANGUAGES))
        return [f"{block.place}: unknown info string; use one of {known}, and `,no-run` for blocks that cannot run"]
    if not block.runs and not block.reason:
        return [f"{block.place}: a no-run block needs the comment `<!-- no-run: REASON -->` on the line above"]
    try:
        if block.language == "json":
            json.loads(block.code)
        elif block.language == "toml" and tomllib:
            tomllib.loads(block.code)
        elif block.language == "python":
            compile(block.code, block.place, "exec")
        elif block.language == "sh":
            parsed = subprocess.run(["bash", "-n"], input=block.code, capture_output=True, text=True, check=False)
            if parsed.returncode:
                raise ValueError(parsed.stderr.strip())
    except (ValueError, SyntaxError) as error:
        return [f"{block.place}: invalid {block.language}: {error}"]
    return []


def check_static() -> list[str]:
    """Everything that needs no VM."""
    faults = []
    lines = len((ROOT / "README.md").read_text().splitlines())
    if lines > README_LINES:
        faults.append(f"README.md has {lines} lines; at most {README_LINES} are allowed")
    for page in pages():
        faults += check_links(page)
        for block in blocks(page):
            faults += check_block(block)
    return faults


class Failed(Exception):
    """A block did not succeed; the text has the end of its output."""


class Shell:
    """One bash process that executes the sh blocks of a page in order."""

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        self.directory, self.count = directory, 0
        self.log = (directory.parent / "sh.log").open("w+b")
        self.done, done = os.pipe()
        self.process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=directory,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
            pass_fds=[done],
        )
        os.close(done)
        self._send(f"set -euo pipefail; exec {{ready}}>&{done} {done}>&-\n")

    def run(self, block: Block) -> None:
        """Executes a block.

        Raises:
            Failed: it failed, or took too long.
        """
        self.count += 1
        script = self.directory.parent / f"block-{self.count}.sh"
        script.write_text(block.code)
        begin = self.log.seek(0, os.SEEK_END)
        self._send(f'. {script} < /dev/null; echo done >&"$ready"\n')
        deadline = time.monotonic() + BLOCK_S
        while not select.select([self.done], [], [], 0.1)[0]:
            # Background jobs hold the pipe open, so its end does not show the end of the shell.
            if self.process.poll() is not None:
                raise Failed(f"exit code {self.process.returncode}\n{self._output(begin)}")
            if time.monotonic() > deadline:
                raise Failed(f"no end after {BLOCK_S} s\n{self._output(begin)}")
        if not os.read(self.done, 64):
            raise Failed(f"exit code {self.process.wait(10)}\n{self._output(begin)}")

    def stop(self) -> None:
        """Ends the shell and its background jobs."""
        members = session_members(self.process.pid)
        for pid in members:
            kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_S
        while session_members(self.process.pid) and time.monotonic() < deadline:
            self.process.poll()
            time.sleep(0.1)
        for pid in session_members(self.process.pid):
            kill(pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()

    def _send(self, text: str) -> None:
        assert self.process.stdin
        try:
            self.process.stdin.write(text.encode())
            self.process.stdin.flush()
        except BrokenPipeError:
            pass

    def _output(self, begin: int) -> str:
        self.log.seek(begin)
        return self.log.read()[-4000:].decode("utf-8", "replace")


def session_members(session: int) -> list[int]:
    """The living processes of a session."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        state, sid = fields[0], int(fields[3])
        if sid == session and state != "Z":
            found.append(int(entry.name))
    return found


def kill(pid: int, number: signal.Signals) -> None:
    """Sends a signal to a process that may have ended."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def stop_server(path: Path) -> None:
    """Ends the server that the SDK started at this socket, and waits for its end."""
    deadline = time.monotonic() + STOP_S
    while path.exists() and time.monotonic() < deadline:
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                connection.connect(str(path))
            except OSError:
                return
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        kill(struct.unpack("3i", credentials)[0], signal.SIGTERM)
        time.sleep(0.2)


def run_python(block: Block, python: Path, directory: Path, environment: dict[str, str]) -> None:
    """Executes a python block as a file.

    Raises:
        Failed: it failed, or took too long.
    """
    script = directory / "example.py"
    script.write_text(block.code)
    try:
        ended = subprocess.run(
            [python, script],
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=BLOCK_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Failed(f"no end after {BLOCK_S} s") from error
    finally:
        script.unlink()
    if ended.returncode:
        raise Failed(f"exit code {ended.returncode}\n{ended.stdout[-4000:].decode('utf-8', 'replace')}")


def run_policy(block: Block, fumehood: Path, directory: Path, environment: dict[str, str]) -> None:
    """Checks a toml block that is a policy.

    Raises:
        Failed: fumehood rejects it.
    """
    file = directory.parent / "policy.toml"
    file.write_text(block.code)
    words = [fumehood, "policy", "check", file]
    ended = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=BLOCK_S, check=False)
    if ended.returncode:
        raise Failed(ended.stderr)


def run_page(page: Path, fumehood: Path, python: Path) -> list[str]:
    """Executes the blocks of a page in a temporary directory, with a private state and socket."""
    todo = [block for block in blocks(page) if block.runs and block.language in {"sh", "python", "toml"}]
    if not todo:
        return []

    with tempfile.TemporaryDirectory(prefix="docs-", ignore_cleanup_errors=True) as temporary:
        work, runtime, state = (Path(temporary) / name for name in ("work", "run", "state"))
        for directory in (work, runtime, state):
            directory.mkdir(mode=0o700)
        ours = ("FUMEHOOD_URL", "FUMEHOOD_API_KEY", "FUMEHOOD_NO_SERVER", "FUMEHOOD_STATE")
        environment = {name: value for name, value in os.environ.items() if name not in ours}
        environment |= {
            "PATH": f"{fumehood.parent}:{os.environ['PATH']}",
            "FUMEHOOD_BIN": str(fumehood),
            "XDG_RUNTIME_DIR": str(runtime),
            "XDG_STATE_HOME": str(state),
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
        }

        shell = Shell(work, environment)
        start = time.monotonic()
        try:
            for block in todo:
                if block.language == "sh":
                    shell.run(block)
                elif block.language == "python":
                    run_python(block, python, work, environment)
                elif re.search(r"^\[\[(allow|secret)\]\]", block.code, re.MULTILINE):
                    run_policy(block, fumehood, work, environment)
        except Failed as failed:
            # Later blocks may depend on this one.
            return [f"{block.place}: {failed}"]
        finally:
            shell.stop()
            stop_server(runtime / "fumehood/server.sock")
        print(f"{page.relative_to(ROOT)}: {len(todo)} blocks in {time.monotonic() - start:.0f} s", flush=True)
    return []


def main() -> int:
    parser = argparse.ArgumentParser(description="Checks the code blocks and links of the documentation.")
    parser.add_argument("--static", action="store_true", help="check syntax, links and info strings")
    parser.add_argument("--run", action="store_true", help="execute the sh and python blocks in real VMs")
    parser.add_argument("--fumehood", type=Path, help="the command `fumehood`")
    parser.add_argument("--sdk-python", type=Path, help="a Python in which the SDK is installed")
    parser.add_argument("page", nargs="*", help="run only these pages, such as README.md")
    args = parser.parse_args()
    if args.run and not (args.fumehood and args.sdk_python):
        parser.error("--run needs --fumehood and --sdk-python")

    faults = check_static()
    if args.run and not faults:
        # The Python of a virtual environment is found by its link, so it must not be resolved.
        fumehood, python = args.fumehood.absolute(), args.sdk_python.absolute()
        chosen = {(ROOT / name).resolve() for name in args.page}
        for page in pages():
            if not chosen or page in chosen:
                faults += run_page(page, fumehood, python)

    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())

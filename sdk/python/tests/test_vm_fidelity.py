"""Order and values through the SDK, and the rule that a program behaves as with the plain interpreter."""

from __future__ import annotations

import asyncio
import re
import shlex
from pathlib import Path
from typing import Any, Iterable, Iterator, Optional

import pytest

from fumehood import AsyncSandbox, Event, Outcome, ResultEvent, Sandbox, StderrEvent, StdoutEvent, run, stream

pytestmark = [pytest.mark.vm, pytest.mark.usefixtures("server")]

PROGRAMS = Path(__file__).resolve().parents[3] / "tests" / "fidelity"
"""The programs of the differential test, in a checkout of fumehood."""

INTERPRETERS = {"python": "python3", "javascript": "bun", "typescript": "bun", "shell": "bash"}

EXTENSIONS = {"python": "py", "javascript": "js", "typescript": "ts", "shell": "sh"}

PER_LANGUAGE = 4
"""How many programs of each language run here; the differential test runs all of them."""


def transcript(events: Iterable[Event]) -> list[tuple[str, str]]:
    """Returns output and values in the order of their arrival, with adjacent pieces of a stream joined."""
    seen: list[tuple[str, str]] = []
    for event in events:
        if isinstance(event, ResultEvent):
            seen.append(("value", event.result.text or ""))
        elif isinstance(event, (StdoutEvent, StderrEvent)):
            kind = "stdout" if isinstance(event, StdoutEvent) else "stderr"
            earlier = seen.pop()[1] if seen and seen[-1][0] == kind else ""
            seen.append((kind, earlier + event.text))
    return seen


ORDERED = {
    "python": (
        "import sys\nprint('one')\nprint('two')\ndisplay(1)\nprint('three', end='')\ndisplay(2)\n"
        "print('four', file=sys.stderr)\nprint('five')\n7"
    ),
    "javascript": (
        "console.log('one')\nconsole.log('two')\ndisplay(1)\nprocess.stdout.write('three')\ndisplay(2)\n"
        "console.error('four')\nconsole.log('five')\n7"
    ),
}

ORDER = [
    ("stdout", "one\ntwo\n"),
    ("value", "1"),
    ("stdout", "three"),
    ("value", "2"),
    ("stderr", "four\n"),
    ("stdout", "five\n"),
    ("value", "7"),
]


@pytest.mark.parametrize("language", ORDERED)
def test_output_and_values_arrive_in_the_order_of_the_program(language: str) -> None:
    code = ORDERED[language]
    assert transcript(stream(code, language=language, display=True)) == ORDER
    with Sandbox(language) as sandbox:
        for context in ["main", None]:
            assert transcript(sandbox.stream(code, context=context)) == ORDER

        # Many small pieces, which arrive in several messages.
        loop = {
            "python": "for n in range(300):\n    print(n)\n    display(n)",
            "javascript": "for (let n = 0; n < 300; n++) { console.log(n); display(n) }",
        }
        seen = transcript(sandbox.stream(loop[language]))
        assert seen == [one for n in range(300) for one in (("stdout", f"{n}\n"), ("value", str(n)))]


def test_callbacks_are_called_in_the_order_of_the_program() -> None:
    seen: list[tuple[str, str]] = []
    run(
        ORDERED["python"],
        on_stdout=lambda text: seen.append(("stdout", text)),
        on_stderr=lambda text: seen.append(("stderr", text)),
        on_result=lambda value: seen.append(("value", value.text)),
    )
    assert [one for one in seen if one[0] == "value"] == [one for one in ORDER if one[0] == "value"]
    before = "".join(text for kind, text in seen[: seen.index(("value", "1"))] if kind == "stdout")
    assert before == "one\ntwo\n" and seen[-1] == ("value", "7")

    async def main() -> list[tuple[str, str]]:
        async with AsyncSandbox() as sandbox:
            return transcript([event async for event in sandbox.stream(ORDERED["python"])])

    assert asyncio.run(main()) == ORDER


def programs() -> Iterator[Any]:
    for language, extension in EXTENSIONS.items():
        found = sorted((PROGRAMS / language).glob(f"*.{extension}"))
        # Programs with exceptions belong to the differential test.
        plain = [path for path in found if not re.search(r"fidelity: *(only|skip)", path.read_text())]
        step = max(1, len(plain) // PER_LANGUAGE)
        for path in plain[::step][:PER_LANGUAGE]:
            yield pytest.param(language, path, id=path.name)


def directive(code: str, name: str) -> Optional[str]:
    found = re.search(rf"^(?:#|//) *fidelity: *{name}=(.*)$", code, re.MULTILINE)
    return found.group(1) if found else None


def told(outcome: Outcome) -> tuple[str, str, Optional[int]]:
    # The name of the program's file may be absolute or relative, as a caller of the interpreter chooses.
    stdout, stderr = (text.replace("/home/user/main.", "main.") for text in (outcome.stdout, outcome.stderr))
    return stdout, stderr, outcome.exit_code


@pytest.mark.parametrize(("language", "path"), list(programs()))
def test_a_program_behaves_as_with_the_plain_interpreter(language: str, path: Path) -> None:
    code = path.read_text()
    args = shlex.split(directive(code, "args") or "")
    stdin = (directive(code, "stdin") or "").encode().decode("unicode_escape") or None
    name = f"main.{EXTENSIONS[language]}"

    # The expected output is only what the plain interpreter prints.
    with Sandbox(language) as sandbox:
        sandbox.files.write_text(name, code)
        plain = sandbox.spawn([INTERPRETERS[language], name, *args], stdin=stdin).wait()
    assert told(run(code, language=language, args=args, stdin=stdin)) == told(plain)


def test_arguments_reach_the_program_in_every_language() -> None:
    args = ["--n", "5", "a b", "", "ä", "$HOME"]
    shown = "[" + "][".join(args) + "]\n"
    codes = {
        "py": "import sys; print('[' + ']['.join(sys.argv[1:]) + ']')",
        "ts": "const args: string[] = process.argv.slice(2); console.log('[' + args.join('][') + ']')",
        "js": "console.log('[' + process.argv.slice(2).join('][') + ']')",
        "bash": "printf '[%s]' \"$@\"; echo",
    }
    for language, code in codes.items():
        assert run(code, language=language, args=args).stdout == shown
        with Sandbox(language) as sandbox:
            assert sandbox.run(code, args=args).stdout == shown

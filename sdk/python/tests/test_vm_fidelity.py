"""The rule that a program behaves as with the plain interpreter, through the SDK."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any, Iterator, Optional

import pytest

from fumehood import Outcome, Sandbox, run

pytestmark = [pytest.mark.vm, pytest.mark.usefixtures("server")]

PROGRAMS = Path(__file__).resolve().parents[3] / "tests" / "fidelity"
"""The programs of the differential test, in a checkout of fumehood."""

INTERPRETERS = {"python": "python3", "javascript": "bun", "typescript": "bun", "shell": "bash"}

EXTENSIONS = {"python": "py", "javascript": "js", "typescript": "ts", "shell": "sh"}

PER_LANGUAGE = 4
"""How many programs of each language run here; the differential test runs all of them."""


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
    return outcome.stdout, outcome.stderr, outcome.exit_code


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

"""The README's example runs unchanged."""

from __future__ import annotations

from pathlib import Path

import pytest

from readme import example

README = Path(__file__).parent.parent / "README.md"


@pytest.mark.vm
@pytest.mark.usefixtures("server")
def test_the_example_runs() -> None:
    exec(compile(example(README), str(README), "exec"), {"__name__": "example"})

"""The examples run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.vm
@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(
    ("name", "output"),
    [
        ("run_code.py", "42\n"),
        ("analyze_file.py", "{'a': 3.0, 'b': 30.0}\na,b\n2,20\n1,10\n"),
        ("concurrent_runs.py", "[0, 1, 4, 9]\n"),
    ],
)
def test_an_example_runs(name: str, output: str) -> None:
    example = subprocess.run([sys.executable, str(EXAMPLES / name)], capture_output=True, text=True, timeout=200)
    assert example.returncode == 0 and example.stdout == output, example.stderr

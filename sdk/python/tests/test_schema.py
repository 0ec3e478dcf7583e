"""The API keeps to its own description, whatever is asked of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCENARIO = Path(__file__).parent / "schema_scenario.py"


@pytest.mark.vm
@pytest.mark.timeout(600)
def test_schemathesis(own_place: Path) -> None:
    unshare = ["unshare", "--net"] + ([] if os.geteuid() == 0 else ["--map-current-user", "--keep-caps"])
    ended = subprocess.run(
        [*unshare, "--", sys.executable, str(SCENARIO), str(own_place)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=560,
    )
    assert ended.returncode == 0, ended.stdout[-20000:]

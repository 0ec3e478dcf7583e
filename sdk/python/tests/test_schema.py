"""The API conforms to its description."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCENARIO = Path(__file__).parent / "schema_scenario.py"


@pytest.mark.vm
@pytest.mark.timeout(600)
def test_schemathesis(private_dirs: Path) -> None:
    unshare = ["unshare", "--net"] + ([] if os.geteuid() == 0 else ["--map-current-user", "--keep-caps"])
    ended = subprocess.run(
        [*unshare, "--", sys.executable, str(SCENARIO), str(private_dirs)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=560,
    )
    assert ended.returncode == 0, ended.stdout[-20000:]

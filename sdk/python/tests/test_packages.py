"""Packages of runs and sandboxes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import stop_servers
from fumehood import run

SCENARIO = Path(__file__).parent / "packages_scenario.py"


@pytest.mark.vm
@pytest.mark.timeout(420)
def test_packages_come_from_the_test_index(private_dirs: Path) -> None:
    # As in the Rust tests: no packet can leave the machine.
    unshare = ["unshare", "--net"] + ([] if os.geteuid() == 0 else ["--map-current-user", "--keep-caps"])
    ended = subprocess.run(
        [*unshare, "--", sys.executable, str(SCENARIO), str(private_dirs)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=400,
    )
    log = private_dirs / "state/fumehood/server.log"
    said = log.read_text()[-4000:] if log.exists() else ""
    assert ended.returncode == 0 and "passed" in ended.stdout, f"{ended.stdout}\n{ended.stderr}\n{said}"


@pytest.mark.vm
@pytest.mark.index
@pytest.mark.timeout(420)
def test_a_real_package_is_installed(private_dirs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # In a separate store without package layers.
    images = Path(os.environ.get("FUMEHOOD_HOME", Path.home() / ".local/share/fumehood")) / "images"
    (private_dirs / "store").mkdir()
    (private_dirs / "store/images").symlink_to(images)
    monkeypatch.setenv("FUMEHOOD_HOME", str(private_dirs / "store"))
    code = "import six; print(six.__version__)"
    try:
        assert run(code, packages=["six==1.16.0"], check=True).stdout == "1.16.0\n"
    finally:
        stop_servers()

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
def test_packages_come_from_an_index_of_the_tests_own(own_place: Path) -> None:
    # As the Rust tests do: no packet leaves the machine, whatever is wrong.
    unshare = ["unshare", "--net"] + ([] if os.geteuid() == 0 else ["--map-current-user", "--keep-caps"])
    ended = subprocess.run(
        [*unshare, "--", sys.executable, str(SCENARIO), str(own_place)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=400,
    )
    log = own_place / "state/fumehood/server.log"
    said = log.read_text()[-4000:] if log.exists() else ""
    assert ended.returncode == 0 and "passed" in ended.stdout, f"{ended.stdout}\n{ended.stderr}\n{said}"


@pytest.mark.vm
@pytest.mark.index
@pytest.mark.timeout(420)
def test_a_real_package_is_installed(own_place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Of a store of its own, in which nothing is installed yet.
    images = Path(os.environ.get("FUMEHOOD_HOME", Path.home() / ".local/share/fumehood")) / "images"
    (own_place / "store").mkdir()
    (own_place / "store/images").symlink_to(images)
    monkeypatch.setenv("FUMEHOOD_HOME", str(own_place / "store"))
    code = "import six; print(six.__version__)"
    try:
        assert run(code, packages=["six==1.16.0"], check=True).stdout == "1.16.0\n"
    finally:
        stop_servers()

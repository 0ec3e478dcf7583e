"""Packages from a test index, in an isolated network namespace: test_packages.py runs it with `unshare --net`. Prints
`passed` on success."""

from __future__ import annotations

import functools
import hashlib
import http.server
import os
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

ADDRESS = "10.66.0.1"
"""A private address in the namespace, like that of an internal index."""

PORT = 8000


def wheel(index: Path, name: str, version: str, body: str) -> None:
    place = index / name
    place.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": body,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    file = place / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    with (place / "index.html").open("a") as page:
        page.write(f'<a href="{file.name}#sha256={digest}">{file.name}</a>\n')


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def prepare(place: Path) -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["ip", "addr", "add", f"{ADDRESS}/32", "dev", "lo"], check=True)
    routes = Path("/proc/self/net/route").read_text().splitlines()
    assert len(routes) == 1, f"this namespace leads somewhere: {routes}"
    for version in ("1.0", "2.0"):
        wheel(place / "index", "tiny", version, f"VALUE = '{version}'\n")
    handler = functools.partial(QuietHandler, directory=str(place / "index"))
    server = http.server.ThreadingHTTPServer((ADDRESS, PORT), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    images = Path.home() / ".local/share/fumehood"
    images = Path(os.environ.get("FUMEHOOD_HOME", images)) / "images"
    (place / "store").mkdir()
    (place / "store/images").symlink_to(images)
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "UV_INDEX", "UV_INDEX_URL"):
        os.environ.pop(name, None)
    os.environ.update(
        FUMEHOOD_HOME=str(place / "store"),
        HOME=str(place),
        PIP_CONFIG_FILE="/dev/null",
        UV_DEFAULT_INDEX=f"http://{ADDRESS}:{PORT}/",
    )


def scenario() -> None:
    from fumehood import InstalledPackage, InvalidError, PackagesEvent, Sandbox, run, stream

    code = "import tiny; print(tiny.VALUE)"
    first = stream(code, packages=["tiny==1.0"])
    steps = [event.step for event in first if isinstance(event, PackagesEvent)]
    assert first.outcome(check=True).stdout == "1.0\n" and steps, steps
    again = stream(code, packages=["tiny==1.0"])
    tiny = [InstalledPackage("tiny", "1.0")]
    assert [event for event in again if isinstance(event, PackagesEvent)] == [PackagesEvent("ready", tiny)]
    outcome = again.outcome(check=True)
    assert (outcome.stdout, outcome.packages) == ("1.0\n", tiny)
    assert run(code, packages=["tiny"]).packages == [InstalledPackage("tiny", "2.0")]
    # Packages of a new sandbox, and packages installed into it later.
    with Sandbox(packages=["tiny==1.0"]) as sandbox:
        assert sandbox.run(code).stdout == "1.0\n"
    network = {"policy": {"allow": [{"addresses": [ADDRESS], "ports": [PORT]}]}}
    with Sandbox(network=network) as sandbox:
        # The guest has its own tools, with their own configuration.
        config = f'[[index]]\nurl = "http://{ADDRESS}:{PORT}"\ndefault = true\n'
        sandbox.files.write_text(".config/uv/uv.toml", config)
        installed = {package.name: package.version for package in sandbox.install("tiny==2.0")}
        assert installed["tiny"] == "2.0", installed
        assert sandbox.run(code).stdout == "2.0\n"
    try:
        run(code, packages=["absent==1"])
    except InvalidError as error:
        assert "absent" in str(error) and error.retry == "never"
    else:
        raise AssertionError("a package that is not there was found")


def main() -> None:
    prepare(Path(sys.argv[1]))
    try:
        scenario()
    finally:
        from fumehood import _local_server

        for server in _local_server._started_servers:
            server.terminate()
            server.wait(60)
    print("passed")


if __name__ == "__main__":
    main()

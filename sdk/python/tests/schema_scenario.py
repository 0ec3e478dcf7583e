"""Schemathesis with the API description, against a real server, in an isolated network namespace: run by
test_schema.py, by `unshare --net`. What it makes up can neither reach a host nor a package index. Exits as schemathesis
does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

ADDRESS = "127.0.0.1:7474"
"""No other process of the namespace uses it."""

READY_S = 60
RUN_S = int(os.environ.get("FUMEHOOD_SCHEMA_S", "420"))
"""Timeout in seconds."""

EXAMPLES = os.environ.get("FUMEHOOD_SCHEMA_EXAMPLES", "6" if os.environ.get("FUMEHOOD_TEST_LONG") else "1")


def ready() -> bool:
    try:
        with urllib.request.urlopen(f"http://{ADDRESS}/readyz", timeout=5) as answer:
            return answer.status == 200
    except (OSError, urllib.error.URLError):
        return False


def key(program: str, name: str) -> str:
    made = subprocess.run([program, "keys", "create", name], stdout=subprocess.PIPE, text=True, check=True)
    return next(word for word in made.stdout.split() if word.startswith("fh_"))


def check(place: Path) -> int:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "UV_INDEX", "UV_INDEX_URL"):
        os.environ.pop(name, None)
    # An index that does not exist, so that made-up packages are never requested from a real one.
    nowhere = "http://127.0.0.1:9/"
    os.environ.update(PIP_CONFIG_FILE="/dev/null", UV_DEFAULT_INDEX=nowhere, NPM_CONFIG_REGISTRY=nowhere)
    program = os.environ["FUMEHOOD_BIN"]
    keys = {name: key(program, name) for name in ("one", "two")}
    with (place / "server.log").open("wb") as log:
        words = [program, "serve", "--listen", ADDRESS, "--socket", str(place / "server.sock"), "--rate", "1000", "--drain-s", "0"]
        server = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + READY_S
        while not ready():
            assert server.poll() is None and time.monotonic() < deadline, (place / "server.log").read_text()[-4000:]
            time.sleep(0.1)
        code = schemathesis(place, keys)
        assert server.poll() is None, f"the server ended with {server.returncode}"
        return code
    finally:
        server.terminate()
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def schemathesis(place: Path, keys: dict[str, str]) -> int:
    headers = {name: {"name": "Authorization", "value": f"Bearer {key}"} for name, key in keys.items()}
    auth = [{"name": name, "fixedHeaders": [header]} for name, header in headers.items()]
    (place / "auth.json").write_text(json.dumps({"auth": auth}))
    os.environ["FUMEHOOD_SCHEMA_AUTH"] = str(place / "auth.json")
    asked = urllib.request.Request(f"http://{ADDRESS}/openapi.json", headers={"Authorization": headers["one"]["value"]})
    with urllib.request.urlopen(asked, timeout=30) as answer:
        (place / "openapi.json").write_bytes(answer.read())
    words = [
        str(Path(sys.executable).parent / "st"),
        "--config-file",
        str(Path(__file__).parent / "schemathesis.toml"),
        "run",
        str(place / "openapi.json"),
        "--url",
        f"http://{ADDRESS}",
        "--checks",
        "all",
        "--max-examples",
        EXAMPLES,
        # A fixed seed makes failures reproducible.
        "--seed",
        os.environ.get("FUMEHOOD_SCHEMA_SEED", "7474"),
        "--request-timeout",
        "60",
        "--continue-on-failure",
        "--no-shrink",
        *sys.argv[2:],
    ]
    # Schemathesis stores its state in the working directory.
    return subprocess.run(words, cwd=place, stdin=subprocess.DEVNULL, timeout=RUN_S).returncode


if __name__ == "__main__":
    sys.exit(check(Path(sys.argv[1]).absolute()))

"""The API's description is valid, and two generators make working clients from it."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from conftest import stop

pytestmark = pytest.mark.vm

RUN = {"language": "python", "code": "print(6 * 7)"}


class TcpServer(NamedTuple):
    """A real server with TCP: generated clients know no Unix sockets."""

    url: str
    key: str
    description: dict[str, Any]


@pytest.fixture(scope="module")
def tcp_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TcpServer]:
    place, program = tmp_path_factory.mktemp("openapi"), os.environ["FUMEHOOD_BIN"]
    state = ["--state", str(place / "state.sqlite")]
    words = [program, "serve", "--listen", "127.0.0.1:0", "--socket", str(place / "server.sock"), *state]
    server = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert server.stdout is not None
        addresses = (re.match(rb"listening at (http://\S+)", line) for line in server.stdout)
        url = next(address[1].decode() for address in addresses if address)
        made = subprocess.run([program, "keys", "create", "one", *state], stdout=subprocess.PIPE, text=True, check=True)
        key = made.stdout.strip()
        answer = httpx.get(f"{url}/openapi.json", headers={"Authorization": f"Bearer {key}"})
        yield TcpServer(url, key, answer.raise_for_status().json())
    finally:
        stop(server)


def test_the_description_is_valid(tcp_server: TcpServer) -> None:
    from openapi_spec_validator import OpenAPIV31SpecValidator

    errors = OpenAPIV31SpecValidator(tcp_server.description).iter_errors()
    assert [f"{list(error.path)}: {error.message}" for error in errors] == []


def test_a_static_generator_makes_a_working_client(
    tcp_server: TcpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.yaml").write_text("post_hooks: []\n")
    words = [str(Path(sys.executable).parent / "openapi-python-client"), "generate"]
    (tmp_path / "openapi.json").write_text(json.dumps(tcp_server.description))
    words += ["--path", "openapi.json", "--output-path", "generated_client", "--meta", "none", "--config", "config.yaml"]
    made = subprocess.run(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
    assert made.returncode == 0, made.stdout
    # Metrics have a media type that the generator does not know. Nothing else is left out.
    warned = set(re.findall(r"parsing (\w+ \S+) within", made.stdout))
    assert warned <= {"GET /metrics"}, made.stdout

    monkeypatch.syspath_prepend(str(tmp_path))
    models = importlib.import_module("generated_client.models")
    post_runs = importlib.import_module("generated_client.api.default.post_runs")
    make_client = importlib.import_module("generated_client.client").AuthenticatedClient
    with make_client(base_url=tcp_server.url, token=tcp_server.key, timeout=120) as client:
        request = models.OneShotRunRequest.from_dict(RUN)
        run = post_runs.sync(client=client, body=request, idempotency_key="generated")
        assert run.stdout == "42\n"
        again = post_runs.sync(client=client, body=request, idempotency_key="generated")
        assert again.id == run.id


def test_a_dynamic_generator_makes_a_working_client(tcp_server: TcpServer) -> None:
    import aiopenapi3
    import httpx2

    # The library reads the annotation, so that it must not be text.
    def session(*args: Any, **how: Any):  # type: ignore[no-untyped-def]
        return httpx2.Client(*args, **{**how, "timeout": 120})

    session.__annotations__["return"] = httpx2.Client
    text = json.dumps(tcp_server.description)
    api = aiopenapi3.OpenAPI.loads(f"{tcp_server.url}/openapi.json", text, session_factory=session)
    api.authenticate(key=tcp_server.key)
    call = api._

    assert call.post_runs(data=RUN).stdout == "42\n"
    sandbox = call.post_sandboxes(data={"idle_timeout_s": 60})
    where = {"id": sandbox.id, "path": "bytes"}
    content = bytes(range(256))
    assert call.put_sandboxes_id_files_content(parameters=where, data=content).size == 256
    assert call.get_sandboxes_id_files_content(parameters=where) == content
    assert call.delete_sandboxes_id(parameters={"id": sandbox.id}).ended == "requested"

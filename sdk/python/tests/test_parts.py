"""Units that need no server: events, values, rules, errors, the generated half."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Optional

import pytest

import fumehood
from fumehood import Download, FileEvent, GapEvent, InvalidError, Network, Outcome, Result, ResultEvent, StdoutEvent
from fumehood._errors import error_from
from fumehood._events import RawEvent, SseParser, event_from
from fumehood._output_buffer import OutputBuffer
from fumehood._network import network_to_json, parse_rule
from fumehood._requests import code_body, process_body, sandbox_body, split_stdin
from mock import sse

TEXT = b": hello\r\n\r\nevent: a\r\nid: 7\r\ndata: 1\r\n\r\nevent: b\nid: 8\ndata: {\ndata: }\n\n: so\n\ndata:2\n\nid: 9\n\n"
EVENTS = [RawEvent("a", 1, 7), RawEvent("b", {}, 8), RawEvent("message", 2, 8)]


@pytest.mark.parametrize("end", [None, b"\n", b"\r", b"\r\n"])
@pytest.mark.parametrize("size", [1, 2, 3, 7, len(TEXT)])
def test_events_are_parsed_from_chunks_of_any_size(size: int, end: Optional[bytes]) -> None:
    text = TEXT if end is None else TEXT.replace(b"\r\n", b"\n").replace(b"\n", end)
    parser, found = SseParser(), []
    for start in range(0, len(text), size):
        found += parser.feed(text[start : start + size])
    assert found == EVENTS


def test_a_carriage_return_completes_an_event() -> None:
    parser = SseParser()
    assert parser.feed(b"data: 1\r\r") == [RawEvent("message", 1, None)]
    assert parser.feed(b"") == [] and parser.feed(b"\ndata: 2\n\n") == [RawEvent("message", 2, None)]


def test_an_event_that_is_too_long_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fumehood._events._MAX_EVENT_BYTES", 100)
    parser = SseParser()
    assert parser.feed(b"data: " + b"1" * 94) == []
    with pytest.raises(fumehood.ProtocolError, match="100"):
        parser.feed(b"1")
    parser = SseParser()
    parser.feed(b"data: " + b"1" * 60 + b"\n")
    with pytest.raises(fumehood.ProtocolError):
        parser.feed(b"data: " + b"1" * 60 + b"\ndata")


def test_an_event_that_is_not_json_is_rejected() -> None:
    with pytest.raises(fumehood.ProtocolError, match="not valid JSON"):
        SseParser().feed(b"data: {\n\n")


def test_output_is_text_or_base64() -> None:
    assert event_from(RawEvent("stdout", {"text": "ä"}, 1)) == StdoutEvent("ä".encode())
    assert event_from(RawEvent("stdout", {"base64": "/w=="}, 1)) == StdoutEvent(b"\xff")
    assert StdoutEvent(b"\xff").text == "\ufffd"
    for wrong in ({}, {"base64": "?"}, {"base64": None}):
        with pytest.raises(fumehood.ProtocolError):
            event_from(RawEvent("stdout", wrong, 1))


def test_captured_output_is_bounded() -> None:
    buffer = OutputBuffer(limit=10)
    for _ in range(5):
        buffer.add(StdoutEvent(b"xx"))
    assert not buffer.outcome({}).stdout_truncated
    buffer.add(StdoutEvent(b"y"))
    buffer.add(ResultEvent(Result({"a": "123456789"})))
    buffer.add(ResultEvent(Result({"a": "1"})))
    outcome = buffer.outcome({})
    assert outcome.stdout == "x" * 10 and outcome.stdout_truncated and not outcome.stderr_truncated
    assert len(outcome.results) == 1 and outcome.results_truncated
    buffer.add(GapEvent(3, 9))
    assert buffer.outcome({}).stderr_truncated


def test_downloaded_files_are_part_of_the_outcome() -> None:
    assert event_from(RawEvent("file", {"path": "a", "text": "x"}, 1)) == FileEvent("a", b"x")
    buffer = OutputBuffer()
    buffer.add(FileEvent("a", b"x"))
    buffer.add(event_from(RawEvent("file", {"path": "b", "base64": "/w=="}, 2)))
    end = {"downloads": [{"remote": "a", "bytes": 1}, {"remote": "b", "bytes": 1}, {"remote": "c", "error": "no"}]}
    outcome = buffer.outcome(end)
    assert outcome.files == {"a": b"x", "b": b"\xff"}
    assert outcome.downloads == [Download("a", 1), Download("b", 1), Download("c", None, "no")]


def test_notebooks_receive_nothing_executable() -> None:
    hostile = Result(
        {
            "text/plain": "t",
            "text/html": "<script>alert(\"1\")</script>",
            "image/svg+xml": "<svg onload='x'/>",
            "application/javascript": "x",
            "image/png": "iVBORw0=",
        }
    )
    shown = hostile._repr_mimebundle_()
    assert set(shown) == {"text/plain", "text/html", "image/png"}
    assert shown["text/html"].startswith('<iframe sandbox=""') and "<script" not in shown["text/html"]
    assert "&lt;script&gt;alert(&quot;1&quot;)" in shown["text/html"]
    svg = Result({"image/svg+xml": "<svg onload='x'/>"})._repr_mimebundle_()["text/html"]
    assert svg.startswith('<img src="data:image/svg+xml;base64,') and "onload" not in svg
    assert set(hostile._repr_mimebundle_(include={"image/png"})) == {"image/png"}
    assert "image/png" not in hostile._repr_mimebundle_(exclude={"image/png"})
    assert Result({"application/x": "1"})._repr_mimebundle_() == {"text/plain": "<Result application/x>"}


def test_values_are_decoded() -> None:
    value = Result({"text/plain": "6", "image/png": "AAE=", "application/json": {"a": 1}, "image/jpeg": "?"})
    assert (value.text, value.png, value.json, value.jpeg, value.html) == ("6", b"\0\1", {"a": 1}, None, None)
    assert repr(value) == "6" and value["application/json"] == {"a": 1} and len(value) == 4


def test_check_raises_for_an_unsuccessful_outcome() -> None:
    outcome = Outcome(3, "exited", b"", b"Traceback\nValueError: no\n", [])
    with pytest.raises(fumehood.RunFailedError, match="exited with 3: ValueError: no") as raised:
        outcome.check()
    assert raised.value.outcome is outcome and raised.value.kind == "run_failed"
    assert Outcome(0, "exited", b"", b"", []).check().ok
    with pytest.raises(fumehood.RunFailedError, match="ended by timeout"):
        Outcome(137, "timeout", b"", b"", []).check()


@pytest.mark.parametrize(
    ("word", "rule"),
    [
        ("example.com", {"host": ["example.com"]}),
        ("*.example.com:443,8443", {"host": ["*.example.com"], "ports": [443, 8443]}),
        ("a.example:8000-8010", {"host": ["a.example"], "ports": ["8000-8010"]}),
        ("10.0.0.0/8:5432", {"addresses": ["10.0.0.0/8"], "ports": [5432]}),
        ("[2001:db8::/32]:443", {"addresses": ["2001:db8::/32"], "ports": [443]}),
        ("2001:db8::1", {"addresses": ["2001:db8::1"]}),
        ("a.example:any", {"host": ["a.example"], "ports": "any"}),
        ("index:python", {"index": "python"}),
        ("internet", {"internet": True}),
        ("internet:80,443", {"internet": True, "ports": [80, 443]}),
    ],
)
def test_rules_are_parsed(word: str, rule: object) -> None:
    assert parse_rule(word) == rule


def test_networks_are_accepted_in_all_forms() -> None:
    assert network_to_json(None) is None
    assert network_to_json(["a.example"]) == {"policy": {"allow": [{"host": ["a.example"]}]}}
    assert network_to_json({"policy": {}}) == {"policy": {}}
    network = Network(
        allow=[{"host": "b.example", "terminate": True}],
        policy={"allow": [{"host": "c.example"}], "limits": {"connections": 1}},
        secrets={"TOKEN": "value"},
        secret_hosts={"TOKEN": "b.example"},
        expose=[80, "8080:3000"],
    )
    assert network_to_json(network) == {
        "policy": {
            "allow": [{"host": "c.example"}, {"host": "b.example", "terminate": True}],
            "limits": {"connections": 1},
            "secret": [{"name": "TOKEN", "host": ["b.example"]}],
        },
        "secrets": {"TOKEN": "value"},
        "expose": ["0:80", "8080:3000"],
    }
    assert "value" not in repr(network)
    with pytest.raises(InvalidError, match="list of rules"):
        network_to_json("a.example")
    with pytest.raises(InvalidError, match="is not a port"):
        network_to_json(["a.example:http"])


def test_uploads_are_text_or_base64(tmp_path: Path) -> None:
    local = tmp_path / "local"
    local.write_bytes(b"\xff")
    body = code_body(
        code="1",
        language="python",
        display=False,
        uploads={"a": "text", "b": "é".encode(), "c": b"\xff", "d": local},
        downloads=["e"],
    )
    assert body["uploads"] == [
        {"path": "a", "text": "text"},
        {"path": "b", "text": "é"},
        {"path": "c", "base64": "/w=="},
        {"path": "d", "base64": "/w=="},
    ]
    assert body["downloads"] == ["e"]


def test_requests_contain_only_given_fields() -> None:
    assert code_body(code="1", language="python", display=False) == {"code": "1", "language": "python"}
    assert code_body(code="1", language="python", timeout=1.2, packages="six==1.16.0") == {
        "code": "1",
        "language": "python",
        "timeout_s": 2,
        "packages": ["six==1.16.0"],
        "display": True,
    }
    assert process_body(argv=["ls"], timeout=0, pty=(24, 80)) == {
        "argv": ["ls"],
        "timeout_s": 0,
        "pty": {"rows": 24, "cols": 80},
    }
    assert sandbox_body(language="python", checkpoint="cp_1", idle_timeout=9) == {
        "checkpoint": "cp_1",
        "idle_timeout_s": 9,
    }
    assert split_stdin("x") == ("x", None) and split_stdin(b"x") == ("x", None)
    assert split_stdin(b"\xff") == (True, b"\xff") and split_stdin(None) == (None, None)
    for wrong in (-1, float("nan"), float("inf")):
        with pytest.raises(InvalidError, match="timeout"):
            code_body(code="1", language="python", timeout=wrong)
    with pytest.raises(InvalidError, match="list of arguments"):
        process_body(argv="ls -l")


def test_error_classes_follow_the_kind() -> None:
    told = {"error": {"kind": "busy", "retry": "safe", "message": "full", "request_id": "r"}}
    error = error_from(told, status=429, retry_after="2")
    assert isinstance(error, fumehood.BusyError) and error.retry_after == 2.0
    assert (error.kind, error.retry, str(error), error.request_id) == ("busy", "safe", "full", "r")
    assert isinstance(error_from({"kind": "lost", "retry": "unknown", "message": "x"}), fumehood.LostError)
    assert isinstance(error_from({"error": {"kind": "too_large"}}), InvalidError)
    unknown = error_from({"error": {"kind": "novel", "message": "m", "retry": "perhaps"}})
    assert (type(unknown), unknown.kind, unknown.retry) == (fumehood.FumehoodError, "novel", "unknown")
    for garbage in (None, [], "x", {"error": 3}):
        assert "without an error description" in str(error_from(garbage, status=500))


def test_the_synchronous_half_is_up_to_date() -> None:
    path = Path(__file__).parent.parent / "tools" / "make_sync.py"
    spec = importlib.util.spec_from_file_location("make_sync", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.PACKAGE = path.parent.parent / "src" / "fumehood"
    assert module.stale_files() == [], "run python tools/make_sync.py"


def test_mock_events_are_parsed() -> None:
    assert json.loads(SseParser().feed(sse(("a", {"b": 1})))[0].data["b"].__repr__()) == 1

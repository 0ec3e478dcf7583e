"""What goes on in a run, event after event."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass, field
from typing import Any, Optional, Union

from fumehood._errors import ProtocolError
from fumehood._results import Result

_MAX_EVENT_BYTES = 64 * 1024 * 1024
"""The most of one server-sent event: a value of 10 MiB in base64 is far below."""


_LINE_END = re.compile(rb"\r\n?|\n")


@dataclass(frozen=True)
class StartedEvent:
    """A program has been started, or code in a context. ``pid``: its number in the guest."""

    pid: Optional[int] = None


@dataclass(frozen=True)
class StdoutEvent:
    """A piece of standard output."""

    data: bytes

    @property
    def text(self) -> str:
        """It as text; bytes that are none are U+FFFD."""
        return self.data.decode("utf-8", "replace")


@dataclass(frozen=True)
class StderrEvent:
    """A piece of standard error."""

    data: bytes

    @property
    def text(self) -> str:
        """It as text; bytes that are none are U+FFFD."""
        return self.data.decode("utf-8", "replace")


@dataclass(frozen=True)
class ResultEvent:
    """A value that the program shows."""

    result: Result


@dataclass(frozen=True)
class PortExposedEvent:
    """A port of the VM is reached at this URL."""

    url: str


@dataclass(frozen=True)
class PackagesEvent:
    """What is being done for the packages that were asked for."""

    step: str


@dataclass(frozen=True)
class NetworkEvent:
    """Something that the guest did on its network, and what was decided."""

    what: str = ""
    allowed: bool = False
    rule: Optional[str] = None
    code: str = ""
    message: str = ""
    name: Optional[str] = None
    address: Optional[str] = None
    port: Optional[int] = None
    method: Optional[str] = None
    status: Optional[int] = None
    bytes_up: int = 0
    bytes_down: int = 0


@dataclass(frozen=True)
class GapEvent:
    """Events between these two numbers are no longer kept: nobody read them in time."""

    after: int
    next: int


@dataclass(frozen=True)
class UnknownEvent:
    """An event of a newer server."""

    name: str
    data: Any = field(default=None)


Event = Union[StartedEvent, StdoutEvent, StderrEvent, ResultEvent, PortExposedEvent, PackagesEvent, NetworkEvent, GapEvent, UnknownEvent]


@dataclass(frozen=True)
class RawEvent:
    """A server-sent event as it came."""

    name: str
    data: Any
    id: Optional[int]


class SseParser:
    """Cuts a stream of bytes into server-sent events, as the HTML standard describes them."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._scanned = 0
        self._after_return = False
        self._name = ""
        self._data: list[bytes] = []
        self._size = 0
        self._id: Optional[int] = None

    def feed(self, chunk: bytes) -> list[RawEvent]:
        """The events that are complete with these bytes.

        Raises:
            ProtocolError: an event is no JSON, or larger than any may be.
        """
        if chunk and self._after_return:
            # The line has ended at the carriage return that came last; a line feed after it is the same end.
            self._after_return = False
            chunk = chunk.removeprefix(b"\n")
        self._buffer += chunk
        events: list[RawEvent] = []
        start = 0
        for end in _LINE_END.finditer(self._buffer, self._scanned):
            event = self._line(bytes(self._buffer[start : end.start()]))
            start = end.end()
            if event is not None:
                events.append(event)
        self._after_return = start > 0 and start == len(self._buffer) and self._buffer[-1:] == b"\r"
        del self._buffer[:start]
        self._scanned = len(self._buffer)
        if len(self._buffer) + self._size > _MAX_EVENT_BYTES:
            raise ProtocolError(f"the server sent an event of more than {_MAX_EVENT_BYTES} bytes", retry="unknown")
        return events

    def _line(self, line: bytes) -> Optional[RawEvent]:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"event":
            self._name = value.decode("utf-8", "replace")
        elif name == b"data":
            self._data.append(value)
            self._size += len(value)
        elif name == b"id" and value.isdigit():
            self._id = int(value)
        return None

    def _dispatch(self) -> Optional[RawEvent]:
        name, data, number = self._name, self._data, self._id
        self._name, self._data, self._size = "", [], 0
        if not data:
            return None
        try:
            return RawEvent(name or "message", json.loads(b"\n".join(data)), number)
        except ValueError as error:
            raise ProtocolError(f"the server sent an event that is no JSON: {error}", retry="unknown") from error


def output_bytes(data: Any) -> bytes:
    """The bytes of an event ``stdout`` or ``stderr``."""
    try:
        if "text" in data:
            return str(data["text"]).encode("utf-8", "surrogatepass")
        return base64.b64decode(data["base64"], validate=True)
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolError(f"the server sent output in no known form: {error!r}", retry="unknown") from error


def event_from(raw: RawEvent) -> Event:
    """The typed form of an event between a run's first and its last."""
    from fumehood._models import dataclass_from

    data = raw.data if isinstance(raw.data, dict) else {}
    if raw.name == "stdout":
        return StdoutEvent(output_bytes(data))
    if raw.name == "stderr":
        return StderrEvent(output_bytes(data))
    if raw.name == "result":
        return ResultEvent(Result(data))
    if raw.name == "started":
        return StartedEvent(data.get("pid"))
    if raw.name == "exposed":
        return PortExposedEvent(str(data.get("url")))
    if raw.name == "packages":
        return PackagesEvent(str(data.get("step")))
    if raw.name == "network":
        return dataclass_from(NetworkEvent, data)
    if raw.name == "gap":
        return GapEvent(int(data.get("after") or 0), int(data.get("next") or 0))
    return UnknownEvent(raw.name, raw.data)

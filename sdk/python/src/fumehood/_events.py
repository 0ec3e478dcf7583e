"""Events of a run."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Optional, Union

from fumehood._errors import ProtocolError
from fumehood._results import Result

if TYPE_CHECKING:
    from fumehood._models import InstalledPackage

_MAX_EVENT_BYTES = 64 * 1024 * 1024
"""Maximum size of a server-sent event. A value of 10 MiB in base64 is far below."""


_LINE_END = re.compile(rb"\r\n?|\n")


@dataclass(frozen=True)
class StartedEvent:
    """A program was started, or code in a context. ``pid``: its process ID in the guest."""

    pid: Optional[int] = None


@dataclass(frozen=True)
class StdoutEvent:
    """A chunk of standard output."""

    data: bytes

    @property
    def text(self) -> str:
        """The chunk as text. Bytes that are not valid UTF-8 become U+FFFD."""
        return self.data.decode("utf-8", "replace")


@dataclass(frozen=True)
class StderrEvent:
    """A chunk of standard error."""

    data: bytes

    @property
    def text(self) -> str:
        """The chunk as text. Bytes that are not valid UTF-8 become U+FFFD."""
        return self.data.decode("utf-8", "replace")


@dataclass(frozen=True)
class ResultEvent:
    """A displayed value."""

    result: Result


@dataclass(frozen=True)
class FileEvent:
    """A downloaded file. ``path``: its path in the VM, as requested."""

    path: str
    data: bytes


@dataclass(frozen=True)
class PortExposedEvent:
    """A port of the VM was exposed at this URL."""

    url: str


@dataclass(frozen=True)
class PackagesEvent:
    """The current step of installing the requested packages."""

    step: str
    """The name of the step; ``ready`` after the last one."""
    packages: list[InstalledPackage] = field(default_factory=list)
    """Requested packages with their resolved versions, if the step is ``ready``."""


@dataclass(frozen=True)
class NetworkEvent:
    """A network access of the guest, and the decision about it."""

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
    """The events between these two numbers were discarded because they were not read in time."""

    after: int
    next: int


@dataclass(frozen=True)
class UnknownEvent:
    """An event that this version of the SDK does not know."""

    name: str
    data: Any = field(default=None)


Event = Union[
    StartedEvent,
    StdoutEvent,
    StderrEvent,
    ResultEvent,
    FileEvent,
    PortExposedEvent,
    PackagesEvent,
    NetworkEvent,
    GapEvent,
    UnknownEvent,
]


@dataclass(frozen=True)
class RawEvent:
    """A server-sent event as received."""

    name: str
    data: Any
    id: Optional[int]


class SseParser:
    """An incremental parser for server-sent events, according to the HTML standard."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._scanned = 0
        self._after_return = False
        self._name = ""
        self._data: list[bytes] = []
        self._size = 0
        self._id: Optional[int] = None

    def feed(self, chunk: bytes) -> list[RawEvent]:
        """Returns the events that are complete with this chunk.

        Raises:
            ProtocolError: an event is not valid JSON, or too large.
        """
        if chunk and self._after_return:
            # The last chunk ended with a carriage return. A line feed that follows belongs to the same line end.
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
            raise ProtocolError(f"the server sent an event that is not valid JSON: {error}", retry="unknown") from error


def output_bytes(data: Any) -> bytes:
    """Returns the bytes of an event ``stdout``, ``stderr`` or ``file``.

    Raises:
        ProtocolError: the event has neither text nor base64.
    """
    try:
        if "text" in data:
            return str(data["text"]).encode("utf-8", "surrogatepass")
        return base64.b64decode(data["base64"], validate=True)
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolError(f"the server sent output in an unknown form: {error!r}", retry="unknown") from error


def event_from(raw: RawEvent) -> Event:
    """Returns the typed form of an event between the first and the last event of a run."""
    from fumehood._models import InstalledPackage, dataclass_from

    data = raw.data if isinstance(raw.data, dict) else {}
    if raw.name == "stdout":
        return StdoutEvent(output_bytes(data))
    if raw.name == "stderr":
        return StderrEvent(output_bytes(data))
    if raw.name == "result":
        return ResultEvent(Result(data))
    if raw.name == "file":
        return FileEvent(str(data.get("path")), output_bytes(data))
    if raw.name == "started":
        return StartedEvent(data.get("pid"))
    if raw.name == "exposed":
        return PortExposedEvent(str(data.get("url")))
    if raw.name == "packages":
        installed = [dataclass_from(InstalledPackage, package) for package in data.get("packages") or []]
        return PackagesEvent(str(data.get("step")), installed)
    if raw.name == "network":
        return dataclass_from(NetworkEvent, data)
    if raw.name == "gap":
        return GapEvent(int(data.get("after") or 0), int(data.get("next") or 0))
    return UnknownEvent(raw.name, raw.data)

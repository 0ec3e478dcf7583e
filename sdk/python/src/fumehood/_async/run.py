"""A run in progress: events, standard input, outcome."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import Any, AsyncIterator, Awaitable, Callable, Optional, Union

import httpx

from fumehood._async.transport import AsyncTransport
from fumehood._concurrency_async import close_later, current_loop, invoke_callback, run_shielded, sleep
from fumehood._errors import (
    DeadlineError,
    FumehoodError,
    LostError,
    NotFoundError,
    ServerError,
    error_from,
)
from fumehood._events import (
    Event,
    RawEvent,
    ResultEvent,
    SseParser,
    StartedEvent,
    StderrEvent,
    StdoutEvent,
    event_from,
)
from fumehood._models import Outcome
from fumehood._output_buffer import OutputBuffer
from fumehood._results import Result
from fumehood._requests import path_segment
from fumehood._settings import CLEANUP_TIMEOUT_S, EVENT_TIMEOUT_S, RETRY_PAUSES_S, new_key

_MAX_STDIN_BYTES = 1024 * 1024
"""Maximum number of bytes of input per request."""


@dataclass(frozen=True)
class Callbacks:
    """Callbacks for output and values. A function may be asynchronous where the SDK is."""

    stdout: Optional[Callable[[str], Any]] = None
    stderr: Optional[Callable[[str], Any]] = None
    result: Optional[Callable[[Result], Any]] = None


class AsyncStdin:
    """The standard input of a run that was started with ``stdin=True``."""

    def __init__(self, run: AsyncRun) -> None:
        self._run = run

    async def write(self, data: Union[str, bytes]) -> None:
        """Sends data. Returns when the server has accepted it."""
        raw = data.encode() if isinstance(data, str) else data
        for start in range(0, len(raw), _MAX_STDIN_BYTES):
            await self._run._post_action("stdin", content=raw[start : start + _MAX_STDIN_BYTES])

    async def close(self) -> None:
        """Closes the input: the program reads its end."""
        await self._run._post_action("stdin", params={"close": "true"}, content=b"")


class AsyncRun:
    """A run. Iterate over it for its events, or await the ``outcome()``.

    The server cancels a run if no client is attached to it for 2 s, unless it was started with ``detach=True``.
    Dropping a run therefore ends it.
    """

    def __init__(
        self,
        transport: AsyncTransport,
        start_path: Optional[Callable[[], Awaitable[str]]] = None,
        body: Optional[dict[str, Any]] = None,
        *,
        id: Optional[str] = None,
        events_at: Optional[str] = None,
        deferred_stdin: Optional[bytes] = None,
        callbacks: Optional[Callbacks] = None,
        key: Optional[str] = None,
    ) -> None:
        self.id: Optional[str] = id
        """The ID of the run, as soon as the server has assigned it."""
        self.pid: Optional[int] = None
        """The process ID in the guest, as soon as the program has started."""
        self._transport = transport

        # The path and body of the request that starts the run, and the path of its events.
        self._start_path, self._body, self._key = start_path, body, key or new_key()
        self._events_at = events_at
        self._cancel_on_close = body is not None and not body.get("detach")
        self._deferred_stdin = deferred_stdin
        self._callbacks = callbacks or Callbacks()

        # The connection that delivers the events, if there is one.
        self._response: Optional[httpx.Response] = None
        self._chunks: Optional[AsyncIterator[bytes]] = None
        self._loop: Any = None
        self._parser = SseParser()
        self._last_id = 0
        self._deadline: Optional[float] = None

        # Events that were received but not yet handled, and events that were handled but not yet returned.
        self._raw_events: deque[RawEvent] = deque()
        self._pending: deque[Event] = deque()

        self._output = OutputBuffer()
        self._outcome: Optional[Outcome] = None
        self._error: Optional[FumehoodError] = None

    async def __aenter__(self) -> Any:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __aiter__(self) -> AsyncIterator[Event]:
        return self.events()

    def __del__(self) -> None:
        response = getattr(self, "_response", None)
        if response is not None and not response.is_closed:
            close_later(response, self._chunks, self._loop)

    @property
    def stdin(self) -> AsyncStdin:
        """The standard input of a run that was started with ``stdin=True``."""
        # Created on demand: a reference cycle would keep a dropped run alive until the next garbage collection.
        return AsyncStdin(self)

    @property
    def has_ended(self) -> bool:
        """Whether the end of the run has been received."""
        return self._outcome is not None or self._error is not None

    async def events(self) -> AsyncIterator[Event]:
        """Yields the events that follow, as they arrive.

        Raises:
            FumehoodError: the run has no outcome, or the server went away.
        """
        while True:
            event = await self._next_event()
            if event is None:
                break
            yield event

        if self._error is not None:
            raise self._error

    async def outcome(self, *, check: bool = False, timeout: Optional[float] = None) -> Outcome:
        """Waits for the run to end. Returns its outcome, with all output.

        Args:
            check: raises :class:`RunFailedError` unless the code succeeded.
            timeout: seconds to wait; the run continues after that.

        Raises:
            TimeoutError: the run has not ended within ``timeout``.
            FumehoodError: the run has no outcome, or the server went away.
        """
        if timeout is not None and not self.has_ended:
            self._deadline = time.monotonic() + timeout
            # A new connection gets the deadline as its read timeout.
            await self._disconnect()

        try:
            while await self._next_event() is not None:
                await self._check_deadline()
        finally:
            self._deadline = None

        if self._outcome is None:
            raise self._error or LostError("the run was closed before it ended", retry="unknown")
        return self._outcome.check() if check else self._outcome

    async def run_to_end(self, check: bool = False) -> Outcome:
        """Returns the outcome. Cancels the run if waiting fails for any reason."""
        try:
            return await self.outcome(check=check)
        except BaseException:
            await run_shielded(self.close, CLEANUP_TIMEOUT_S)
            raise

    async def cancel(self) -> None:
        """Cancels the run: SIGINT, then SIGTERM, then SIGKILL. Has no effect after its end."""
        if self.id is not None:
            await self._post_action("cancel")

    async def signal(self, signal: Union[str, int]) -> None:
        """Sends a signal, such as ``"SIGINT"`` or 2, to the program and its child processes."""
        await self._post_action("signal", json={"signal": signal})

    async def resize(self, rows: int, cols: int) -> None:
        """Sets the size of the program's terminal, in characters."""
        await self._post_action("resize", json={"rows": rows, "cols": cols})

    async def detach(self) -> None:
        """Detaches: the run continues while no client is attached. ``Client.attach(id)`` attaches to it again."""
        await self._post_action("detach")
        self._cancel_on_close = False
        await self._disconnect()

    async def close(self) -> None:
        """Stops following the run, and cancels it unless it has ended or was started with ``detach=True``."""
        if self._cancel_on_close and not self.has_ended and self.id is not None:
            self._cancel_on_close = False
            try:
                await self._transport.send(
                    "POST", f"{self._path}/cancel", read_s=CLEANUP_TIMEOUT_S, may_start_server=False
                )
            except FumehoodError:
                # The server cancels a run without clients.
                pass

        await self._disconnect()

    async def started(self) -> None:
        """Waits until the program has started or ended. Other events remain available.

        Raises:
            FumehoodError: the run failed, or the server went away.
        """
        event: Optional[Event] = None
        others: list[Event] = []
        while not isinstance(event, StartedEvent) and self.pid is None:
            event = await self._next_event()
            if event is None:
                break
            if not isinstance(event, StartedEvent):
                others.append(event)

        self._pending.extend(others)
        if self._error is not None:
            raise self._error

    @property
    def _path(self) -> str:
        return f"/v1/runs/{path_segment(self.id or '')}"

    async def _post_action(self, action: str, **body: Any) -> None:
        # The action needs the ID, which the first event brings.
        while self.id is None and not self.has_ended:
            event = await self._handle(await self._next_raw())
            if event is not None:
                self._pending.append(event)

        if self._error is not None:
            raise self._error
        await self._transport.send("POST", f"{self._path}/{action}", **body)

    async def _next_event(self) -> Optional[Event]:
        """Returns the next event, or ``None`` after the last one."""
        if self._pending:
            return self._pending.popleft()

        while not self.has_ended:
            try:
                raw = await self._next_raw()
            except Exception:
                raise
            except BaseException as interruption:
                # KeyboardInterrupt or the cancellation of a task.
                await self._interrupted(interruption)
                raise

            event = await self._handle(raw)
            if event is not None:
                return event
        return None

    async def _interrupted(self, interruption: BaseException) -> None:
        await run_shielded(self.close, CLEANUP_TIMEOUT_S)

    async def _handle(self, raw: RawEvent) -> Optional[Event]:
        data = raw.data if isinstance(raw.data, dict) else {}

        if raw.name == "run":
            self.id = data.get("id")
            stdin, self._deferred_stdin = self._deferred_stdin, None
            if stdin is not None:
                await self.stdin.write(stdin)
                await self.stdin.close()
        elif raw.name == "ended":
            # For a run that ended long ago this is the only event.
            self.id = self.id or data.get("id")
            self._outcome = self._output.outcome({"id": self.id, **data})
            await self._drain()
        elif raw.name == "failed":
            self._error = error_from(data)
            await self._drain()
        else:
            event = event_from(raw)
            self._output.add(event)
            await self._notify(event)
            return event
        return None

    async def _notify(self, event: Event) -> None:
        if isinstance(event, StdoutEvent):
            await invoke_callback(self._callbacks.stdout, event.text)
        elif isinstance(event, StderrEvent):
            await invoke_callback(self._callbacks.stderr, event.text)
        elif isinstance(event, ResultEvent):
            await invoke_callback(self._callbacks.result, event.result)
        elif isinstance(event, StartedEvent):
            self.pid = event.pid

    async def _next_raw(self) -> RawEvent:
        """Returns the next event as received. Reconnects if the connection breaks."""
        pauses = iter(RETRY_PAUSES_S)

        while not self._raw_events:
            reason = "the stream ended before the run"
            try:
                chunk = await self._next_chunk()
                if chunk is not None:
                    self._feed(chunk)
                    await self._check_deadline()
                    continue
            except DeadlineError:
                await self._check_deadline()
                raise
            except httpx.TransportError as error:
                reason = repr(error)

            # The connection broke: attach again after the last event.
            await self._disconnect()
            await self._check_deadline()
            pause = next(pauses, None)
            if pause is None:
                raise self._lost_error(reason)
            await sleep(pause)

        return self._raw_events.popleft()

    def _feed(self, chunk: bytes) -> None:
        for raw in self._parser.feed(chunk):
            self._raw_events.append(raw)
            if raw.id is not None:
                self._last_id = raw.id

    async def _next_chunk(self) -> Optional[bytes]:
        if self._chunks is None:
            self._response = await self._connect()
            self._chunks = self._response.aiter_bytes()
            self._parser = SseParser()
        return await anext(self._chunks, None)

    async def _connect(self) -> httpx.Response:
        headers = {"Accept": "text/event-stream"}
        self._loop = current_loop()
        read_s = EVENT_TIMEOUT_S
        if self._deadline is not None:
            read_s = max(0.01, min(EVENT_TIMEOUT_S, self._deadline - time.monotonic()))

        # The first connection starts the run; the event stream is the answer.
        if self.id is None and self._start_path is not None:
            path = await self._start_path()
            return await self._transport.send(
                "POST", path, json=self._body, headers=headers, read_s=read_s, key=self._key, stream=True
            )

        # Later ones attach to it, after the last event received.
        if self._last_id:
            headers["Last-Event-ID"] = str(self._last_id)
        path = self._events_at or f"{self._path}/events"
        try:
            return await self._transport.send(
                "GET", path, headers=headers, read_s=read_s, stream=True, may_start_server=self._body is None
            )
        except DeadlineError:
            raise
        except (NotFoundError, ServerError) as error:
            if self._body is None:
                raise
            raise self._lost_error(error) from error

    def _lost_error(self, reason: object) -> LostError:
        return LostError(
            f"lost the server during run {self.id}; the run may have ended: {reason}",
            retry="unknown",
        )

    async def _check_deadline(self) -> None:
        if self._deadline is not None and time.monotonic() >= self._deadline and not self.has_ended:
            self._deadline = None
            await self._reconnect()
            raise TimeoutError(f"run {self.id} has not ended within the timeout; it continues")

    async def _reconnect(self) -> None:
        """Attaches again immediately. After 2 s without a client the run would be cancelled."""
        await self._disconnect()
        if not self.has_ended:
            self._response = await self._connect()
            self._chunks, self._parser = self._response.aiter_bytes(), SseParser()

    async def _drain(self) -> None:
        """Reads the end of the stream, which follows its last event immediately, so that the connection can be
        reused."""
        try:
            if self._chunks is not None:
                await anext(self._chunks, None)
        except httpx.TransportError:
            pass
        await self._disconnect()

    async def _disconnect(self) -> None:
        response, self._response, self._chunks = self._response, None, None
        self._parser = SseParser()
        if response is not None:
            await response.aclose()

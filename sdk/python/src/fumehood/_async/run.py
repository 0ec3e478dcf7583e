"""A run that goes on: its events, its input, its end."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import Any, AsyncIterator, Awaitable, Callable, Optional, Union

import httpx

from fumehood._async.transport import AsyncTransport
from fumehood._errors import (
    DeadlineError,
    FumehoodError,
    LostError,
    NotFoundError,
    ServerError,
    error_from,
)
from fumehood._events import Event, RawEvent, ResultEvent, SseParser, StartedEvent, StderrEvent, StdoutEvent, event_from
from fumehood._concurrency_async import invoke_callback, run_shielded, current_loop, close_later, sleep
from fumehood._output_buffer import OutputBuffer
from fumehood._models import Outcome
from fumehood._results import Result
from fumehood._settings import CLEANUP_TIMEOUT_S, RETRY_PAUSES_S, EVENT_TIMEOUT_S, new_key

_MAX_STDIN_BYTES = 1024 * 1024
"""Bytes of input that go with one request."""


@dataclass(frozen=True)
class Callbacks:
    """Who is told of output as it comes. A function may be asynchronous where the SDK is."""

    stdout: Optional[Callable[[str], Any]] = None
    stderr: Optional[Callable[[str], Any]] = None
    result: Optional[Callable[[Result], Any]] = None


class AsyncStdin:
    """The input of a run that was begun with ``stdin=True``."""

    def __init__(self, run: AsyncRun) -> None:
        self._run = run

    async def write(self, data: Union[str, bytes]) -> None:
        """Sends this; returns when the server has taken it."""
        raw = data.encode() if isinstance(data, str) else data
        for start in range(0, len(raw), _MAX_STDIN_BYTES):
            await self._run._post_action("stdin", content=raw[start : start + _MAX_STDIN_BYTES])

    async def close(self) -> None:
        """Nothing follows: the program reads the end of its input."""
        await self._run._post_action("stdin", params={"close": "true"}, content=b"")


class AsyncRun:
    """Code that runs. Iterate over it for its events, or ask for its ``outcome()``.

    A run that nobody follows for 2 s is cancelled, unless it was begun with ``detach=True``: one that is dropped
    ends.
    """

    def __init__(
        self,
        transport: AsyncTransport,
        place: Optional[Callable[[], Awaitable[str]]] = None,
        body: Optional[dict[str, Any]] = None,
        *,
        id: Optional[str] = None,
        events_at: Optional[str] = None,
        deferred_stdin: Optional[bytes] = None,
        callbacks: Optional[Callbacks] = None,
        key: Optional[str] = None,
    ) -> None:
        self.id: Optional[str] = id
        """Its id at the server, once it is there."""
        self.pid: Optional[int] = None
        """Its number in the guest, once it has started."""
        self._transport = transport
        # Where it is begun, by what body; and where its events are.
        self._start_path, self._body, self._key = place, body, key or new_key()
        self._events_at = events_at
        self._cancel_on_close = body is not None and not body.get("detach")
        self._deferred_stdin = deferred_stdin
        self._callbacks = callbacks or Callbacks()
        self._response: Optional[httpx.Response] = None
        self._chunks: Optional[AsyncIterator[bytes]] = None
        self._loop: Any = None
        self._parser = SseParser()
        self._raw: deque[RawEvent] = deque()
        self._pending: deque[Event] = deque()
        self._last = 0
        self._deadline: Optional[float] = None
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
        """Its input, where it was begun with ``stdin=True``."""
        # Made when it is asked for: a run that is dropped must go at once, and not with the next search for cycles.
        return AsyncStdin(self)

    @property
    def has_ended(self) -> bool:
        """Its end has been read."""
        return self._outcome is not None or self._error is not None

    async def events(self) -> AsyncIterator[Event]:
        """Its events from here on, as they come.

        Raises:
            FumehoodError: it failed without an outcome, or the server went away.
        """
        while True:
            event = await self._next_event()
            if event is None:
                break
            yield event
        if self._error is not None:
            raise self._error

    async def outcome(self, *, check: bool = False, timeout: Optional[float] = None) -> Outcome:
        """How it ended, with all of its output; waits for that.

        Args:
            check: raises :class:`RunFailedError` unless it succeeded.
            timeout: seconds to wait; the run goes on when they are over.

        Raises:
            TimeoutError: it has not ended within ``timeout``.
            FumehoodError: it failed without an outcome, or the server went away.
        """
        if timeout is not None and not self.has_ended:
            self._deadline = time.monotonic() + timeout
            await self._disconnect()
        try:
            while await self._next_event() is not None:
                await self._check_deadline()
        finally:
            self._deadline = None
        if self._outcome is None:
            raise self._error or LostError("the run was closed before its end", retry="unknown")
        return self._outcome.check() if check else self._outcome

    async def run_to_end(self, check: bool = False) -> Outcome:
        """Its outcome; where that cannot be had, whatever the reason, it is cancelled."""
        try:
            return await self.outcome(check=check)
        except BaseException:
            await run_shielded(self.close, CLEANUP_TIMEOUT_S)
            raise

    async def cancel(self) -> None:
        """Ends it: by SIGINT, then SIGTERM, then SIGKILL. Nothing, where it has ended."""
        if self.id is not None:
            await self._post_action("cancel")

    async def signal(self, signal: Union[str, int]) -> None:
        """Sends a signal, as ``"SIGINT"`` or 2, to it and what it has started."""
        await self._post_action("signal", json={"signal": signal})

    async def resize(self, rows: int, cols: int) -> None:
        """Gives its terminal this size, in characters."""
        await self._post_action("resize", json={"rows": rows, "cols": cols})

    async def detach(self) -> None:
        """Leaves it to itself: it goes on when nobody follows it. ``Client.attach(id)`` follows it again."""
        await self._post_action("detach")
        self._cancel_on_close = False
        await self._disconnect()

    async def close(self) -> None:
        """Stops following it, and cancels it unless it has ended or was begun with ``detach=True``."""
        if self._cancel_on_close and not self.has_ended and self.id is not None:
            self._cancel_on_close = False
            try:
                await self._transport.send("POST", f"/v1/runs/{self.id}/cancel", read_s=CLEANUP_TIMEOUT_S, may_start_server=False)
            except FumehoodError:
                # The server does it when nobody follows.
                pass
        await self._disconnect()

    async def started(self) -> None:
        """Waits until it has started, or has ended without that. Its other events are kept for who reads them.

        Raises:
            FumehoodError: it failed, or the server went away.
        """
        event: Optional[Event] = None
        read: list[Event] = []
        while not isinstance(event, StartedEvent) and self.pid is None:
            event = await self._next_event()
            if event is None:
                break
            if not isinstance(event, StartedEvent):
                read.append(event)
        self._pending.extend(read)
        if self._error is not None:
            raise self._error

    async def _post_action(self, what: str, **body: Any) -> None:
        while self.id is None and not self.has_ended:
            event = await self._handle(await self._next())
            if event is not None:
                self._pending.append(event)
        if self._error is not None:
            raise self._error
        await self._transport.send("POST", f"/v1/runs/{self.id}/{what}", **body)

    async def _next_event(self) -> Optional[Event]:
        """The next event between the first and the last; none after that."""
        if self._pending:
            return self._pending.popleft()
        while not self.has_ended:
            try:
                raw = await self._next()
            except Exception:
                raise
            except BaseException as interruption:
                await self._interrupted(interruption)
                raise
            event = await self._handle(raw)
            if event is not None:
                return event
        return None

    async def _interrupted(self, interruption: BaseException) -> None:
        await run_shielded(self.close, CLEANUP_TIMEOUT_S)

    async def _handle(self, raw: RawEvent) -> Optional[Event]:
        told = raw.data if isinstance(raw.data, dict) else {}
        if raw.name == "run":
            self.id = told.get("id")
            later, self._deferred_stdin = self._deferred_stdin, None
            if later is not None:
                await self.stdin.write(later)
                await self.stdin.close()
        elif raw.name == "ended":
            # Of one that ended long ago nothing else is told.
            self.id = self.id or told.get("id")
            self._outcome = self._output.outcome({"id": self.id, **told})
            await self._drain()
        elif raw.name == "failed":
            self._error = error_from(told)
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

    async def _next(self) -> RawEvent:
        """The next event as it comes, over as many connections as it takes."""
        pauses = iter(RETRY_PAUSES_S)
        while not self._raw:
            why = "it closed the stream before the run's end"
            try:
                chunk = await self._chunk()
                if chunk is not None:
                    self._feed(chunk)
                    await self._check_deadline()
                    continue
            except DeadlineError:
                await self._check_deadline()
                raise
            except httpx.TransportError as error:
                why = repr(error)
            await self._disconnect()
            await self._check_deadline()
            pause = next(pauses, None)
            if pause is None:
                raise self._lost(why)
            await sleep(pause)
        return self._raw.popleft()

    def _feed(self, chunk: bytes) -> None:
        for raw in self._parser.feed(chunk):
            self._raw.append(raw)
            if raw.id is not None:
                self._last = raw.id

    async def _chunk(self) -> Optional[bytes]:
        if self._chunks is None:
            self._response = await self._open()
            self._chunks = self._response.aiter_bytes()
            self._parser = SseParser()
        return await anext(self._chunks, None)

    async def _open(self) -> httpx.Response:
        headers = {"Accept": "text/event-stream"}
        self._loop = current_loop()
        read_s = EVENT_TIMEOUT_S
        if self._deadline is not None:
            read_s = max(0.01, min(EVENT_TIMEOUT_S, self._deadline - time.monotonic()))
        if self.id is None and self._start_path is not None:
            path = await self._start_path()
            return await self._transport.send(
                "POST", path, json=self._body, headers=headers, read_s=read_s, key=self._key, stream=True
            )
        if self._last:
            headers["Last-Event-ID"] = str(self._last)
        path = self._events_at or f"/v1/runs/{self.id}/events"
        try:
            return await self._transport.send(
                "GET", path, headers=headers, read_s=read_s, stream=True, may_start_server=self._body is None
            )
        except DeadlineError:
            raise
        except (NotFoundError, ServerError) as error:
            if self._body is None:
                raise
            raise self._lost(error) from error

    def _lost(self, why: object) -> LostError:
        return LostError(
            f"the server went away while run {self.id} went on; whether its code ended is unknown: {why}",
            retry="unknown",
        )

    async def _check_deadline(self) -> None:
        if self._deadline is not None and time.monotonic() >= self._deadline and not self.has_ended:
            self._deadline = None
            await self._reconnect()
            raise TimeoutError(f"run {self.id} has not ended within its timeout; it goes on")

    async def _reconnect(self) -> None:
        """Follows it again at once: after 2 s without that it would be cancelled."""
        await self._disconnect()
        if not self.has_ended:
            self._response = await self._open()
            self._chunks, self._parser = self._response.aiter_bytes(), SseParser()

    async def _drain(self) -> None:
        """Takes the end of the stream, which follows its last event at once, so that its connection serves again."""
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

"""Captures the output of a run."""

from __future__ import annotations

from typing import Any, Mapping

from fumehood._events import Event, FileEvent, GapEvent, ResultEvent, StderrEvent, StdoutEvent
from fumehood._models import Outcome, outcome_from
from fumehood._results import Result, approximate_size
from fumehood._settings import MAX_CAPTURED_BYTES


class OutputBuffer:
    """Captured output and values, up to ``limit`` bytes (10 MiB by default) of each."""

    def __init__(self, limit: int = MAX_CAPTURED_BYTES) -> None:
        self._limit = limit
        self._stdout, self._stderr = bytearray(), bytearray()
        self._results: list[Result] = []
        self._result_bytes = 0
        self._truncated = [False, False, False]
        # The server limits the files of a run.
        self._files: dict[str, bytes] = {}

    def add(self, event: Event) -> None:
        """Adds the output, value or file in an event. Other events are ignored."""
        if isinstance(event, StdoutEvent):
            self._truncated[0] |= self._extend(self._stdout, event.data)
        elif isinstance(event, StderrEvent):
            self._truncated[1] |= self._extend(self._stderr, event.data)
        elif isinstance(event, ResultEvent):
            size = approximate_size(event.result)
            if self._result_bytes + size > self._limit:
                self._truncated[2] = True
            else:
                self._result_bytes += size
                self._results.append(event.result)
        elif isinstance(event, FileEvent):
            self._files[event.path] = event.data
        elif isinstance(event, GapEvent):
            self._truncated = [True, True, True]

    def _extend(self, buffer: bytearray, data: bytes) -> bool:
        capacity = self._limit - len(buffer)
        buffer += data[:capacity]
        return len(data) > capacity

    def outcome(self, end: Mapping[str, Any]) -> Outcome:
        """Returns the outcome for the server's description of a run's end."""
        truncated = (self._truncated[0], self._truncated[1], self._truncated[2])
        return outcome_from(end, bytes(self._stdout), bytes(self._stderr), list(self._results), truncated, self._files)

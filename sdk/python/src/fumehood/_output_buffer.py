"""What is kept of a run's output."""

from __future__ import annotations

from typing import Any, Mapping

from fumehood._events import Event, GapEvent, ResultEvent, StderrEvent, StdoutEvent
from fumehood._models import Outcome, outcome_from
from fumehood._results import Result, approximate_size
from fumehood._settings import MAX_CAPTURED_BYTES


class OutputBuffer:
    """Output and values so far, each up to 10 MiB."""

    def __init__(self, limit: int = MAX_CAPTURED_BYTES) -> None:
        self._limit = limit
        self._stdout, self._stderr = bytearray(), bytearray()
        self._results: list[Result] = []
        self._result_bytes = 0
        self._cut = [False, False, False]

    def add(self, event: Event) -> None:
        """Keeps what is in an event, where it is output."""
        if isinstance(event, StdoutEvent):
            self._cut[0] |= self._extend(self._stdout, event.data)
        elif isinstance(event, StderrEvent):
            self._cut[1] |= self._extend(self._stderr, event.data)
        elif isinstance(event, ResultEvent):
            size = approximate_size(event.result)
            if self._result_bytes + size > self._limit:
                self._cut[2] = True
            else:
                self._result_bytes += size
                self._results.append(event.result)
        elif isinstance(event, GapEvent):
            self._cut = [True, True, True]

    def _extend(self, kept: bytearray, data: bytes) -> bool:
        room = self._limit - len(kept)
        kept += data[:room]
        return len(data) > room

    def outcome(self, told: Mapping[str, Any]) -> Outcome:
        """The outcome, when the run has ended so."""
        cut = (self._cut[0], self._cut[1], self._cut[2])
        return outcome_from(told, bytes(self._stdout), bytes(self._stderr), list(self._results), cut)

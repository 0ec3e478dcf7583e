"""Waiting and calling in a thread. The counterpart for event loops is ``_concurrency_async``."""

from __future__ import annotations

import _thread
import os
import time
from typing import Any, Callable, Optional, TypeVar

import httpx

T = TypeVar("T")


def sleep(seconds: float) -> None:
    """Waits."""
    time.sleep(seconds)


def run_in_thread(function: Callable[..., T], *arguments: Any) -> T:
    """Calls a function."""
    return function(*arguments)


def invoke_callback(function: Optional[Callable[[Any], Any]], value: Any) -> None:
    """Calls a callback."""
    if function is not None:
        function(value)


def run_shielded(work: Callable[[], None], seconds: float) -> None:
    """Runs ``work``, which has its own deadlines."""
    work()


def start_if_blocking(function: Callable[[], None]) -> None:
    """Calls the function."""
    function()


_closing: set[Any] = set()
"""Iterators of responses that are being closed."""


def current_loop() -> Any:
    """Returns nothing: connections do not belong to a thread."""
    return None


def close_later(response: httpx.Response, chunks: Any, loop: Any) -> None:
    """Closes a dropped response soon. May be called at any time and in any thread, for example by the garbage
    collector.

    ``chunks`` iterates over the response. It is kept until the response is closed, since its finalizer would close
    the response immediately.
    """

    def close() -> None:
        try:
            response.close()
        except Exception:
            pass
        _closing.discard(chunks)

    _closing.add(chunks)
    try:
        # Not in this thread, which may hold the lock that closing takes. `threading` takes locks, too.
        _thread.start_new_thread(close, ())
    except RuntimeError:
        # Python is shutting down, and closes its connections.
        pass


_shared: dict[str, Any] = {}

# A child of fork() must not use its parent's connections.
os.register_at_fork(after_in_child=_shared.clear)


def shared_state() -> dict[str, Any]:
    """Returns the state that all threads of this process share."""
    return _shared

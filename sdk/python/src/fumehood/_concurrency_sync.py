"""What waiting means in a thread. Its twin is ``_concurrency_async``."""

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
    """Calls it."""
    return function(*arguments)


def invoke_callback(function: Optional[Callable[[Any], Any]], value: Any) -> None:
    """Calls a caller's function."""
    if function is not None:
        function(value)


def run_shielded(work: Callable[[], None], seconds: float) -> None:
    """Does this; it has deadlines of its own."""
    work()


def start_if_blocking(function: Callable[[], None]) -> None:
    """Calls it now."""
    function()


_closing: set[Any] = set()
"""Readers of answers that are about to be closed."""


def current_loop() -> Any:
    """Nothing: what is made now belongs to no thread."""
    return None


def close_later(response: httpx.Response, chunks: Any, loop: Any) -> None:
    """Closes what nobody holds any more, soon; may be called at any time and by any thread, as garbage is collected.
    ``chunks`` reads it, and lives until it is closed: its own end would close it here and now."""

    def close() -> None:
        try:
            response.close()
        except Exception:
            pass
        _closing.discard(chunks)

    _closing.add(chunks)
    try:
        # Not here: this thread may hold the very lock that closing takes. And without `threading`, which has locks too.
        _thread.start_new_thread(close, ())
    except RuntimeError:
        # Python is about to end, and its connections with it.
        pass


_shared: dict[str, Any] = {}

# A child of fork() must not speak on its parent's connections.
os.register_at_fork(after_in_child=_shared.clear)


def shared_state() -> dict[str, Any]:
    """What all threads of this process share."""
    return _shared

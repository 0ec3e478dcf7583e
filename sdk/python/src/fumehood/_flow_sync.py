"""What waiting means in a thread. Its twin is ``_flow_async``."""

from __future__ import annotations

import os
import time
from typing import Any, Callable, Optional, TypeVar

import httpx

T = TypeVar("T")


def sleep(seconds: float) -> None:
    """Waits."""
    time.sleep(seconds)


def off_loop(function: Callable[..., T], *arguments: Any) -> T:
    """Calls it."""
    return function(*arguments)


def call_back(function: Optional[Callable[[Any], Any]], value: Any) -> None:
    """Calls a caller's function."""
    if function is not None:
        function(value)


def finish(work: Callable[[], None], seconds: float) -> None:
    """Does this; it has deadlines of its own."""
    work()


def eager(function: Callable[[], None]) -> None:
    """Calls it now."""
    function()


def let_go(response: httpx.Response) -> None:
    """Closes what nobody holds any more."""
    response.close()


_shared: dict[str, Any] = {}

# A child of fork() must not speak on its parent's connections.
os.register_at_fork(after_in_child=_shared.clear)


def shared() -> dict[str, Any]:
    """What all threads of this process share."""
    return _shared

"""Waiting and calling in an event loop. The counterpart for threads is ``_concurrency_sync``."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any, Awaitable, Callable, Coroutine, Optional, TypeVar
from weakref import WeakKeyDictionary

import httpx

T = TypeVar("T")

_unfinished: set[asyncio.Task[Any]] = set()
"""Clean-up tasks that continue after their caller was cancelled. The loop itself keeps only weak references to tasks.
"""


async def sleep(seconds: float) -> None:
    """Waits."""
    await asyncio.sleep(seconds)


async def run_in_thread(function: Callable[..., T], *arguments: Any) -> T:
    """Calls a blocking function in a thread."""
    return await asyncio.to_thread(function, *arguments)


async def invoke_callback(function: Optional[Callable[[Any], Any]], value: Any) -> None:
    """Calls a callback, and awaits its result if it is asynchronous."""
    if function is not None:
        returned = function(value)
        if inspect.isawaitable(returned):
            await returned


async def run_shielded(work: Callable[[], Coroutine[Any, Any, None]], seconds: float) -> None:
    """Runs ``work`` to its end, for at most ``seconds``, even if the caller is cancelled."""
    task = asyncio.ensure_future(asyncio.wait_for(work(), seconds))
    _unfinished.add(task)
    task.add_done_callback(_unfinished.discard)
    task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    await asyncio.wait({task})


def start_if_blocking(function: Callable[[], Awaitable[None]]) -> None:
    """Does nothing: the function is awaited later."""


_closing: set[Any] = set()
"""Iterators of responses that are being closed."""


def current_loop() -> Any:
    """Returns the running event loop, to which new connections belong."""
    return asyncio.get_running_loop()


def close_later(response: httpx.Response, chunks: Any, loop: Any) -> None:
    """Closes a dropped response soon. May be called at any time and in any thread, for example by the garbage
    collector.

    ``chunks`` iterates over the response. It is kept until the response is closed, since its finalizer would close
    the response immediately.
    """

    async def close() -> None:
        await response.aclose()
        _closing.discard(chunks)

    def start_closing() -> None:
        task = loop.create_task(close())
        _unfinished.add(task)
        task.add_done_callback(_unfinished.discard)
        task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())

    _closing.add(chunks)
    try:
        loop.call_soon_threadsafe(start_closing)
    except RuntimeError:
        # The loop is closed, and so are its connections.
        pass


_shared_by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Any]] = WeakKeyDictionary()


def shared_state() -> dict[str, Any]:
    """Returns the state that all tasks of this event loop share. Connections belong to the loop that made them."""
    return _shared_by_loop.setdefault(asyncio.get_running_loop(), {})

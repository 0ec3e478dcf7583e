"""What waiting means where there is an event loop. Its twin is ``_concurrency_sync``."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any, Awaitable, Callable, Coroutine, Optional, TypeVar
from weakref import WeakKeyDictionary

import httpx

T = TypeVar("T")

_unfinished: set[asyncio.Task[Any]] = set()
"""Clean-up that goes on after its caller was cancelled; the loop itself holds tasks weakly."""


async def sleep(seconds: float) -> None:
    """Lets others go on for a while."""
    await asyncio.sleep(seconds)


async def run_in_thread(function: Callable[..., T], *arguments: Any) -> T:
    """Calls what blocks, in a thread."""
    return await asyncio.to_thread(function, *arguments)


async def invoke_callback(function: Optional[Callable[[Any], Any]], value: Any) -> None:
    """Calls a caller's function, and waits for it where it is asynchronous."""
    if function is not None:
        returned = function(value)
        if inspect.isawaitable(returned):
            await returned


async def run_shielded(work: Callable[[], Coroutine[Any, Any, None]], seconds: float) -> None:
    """Does this to its end, also where the caller is cancelled, then or again; for so many seconds at most."""
    task = asyncio.ensure_future(asyncio.wait_for(work(), seconds))
    _unfinished.add(task)
    task.add_done_callback(_unfinished.discard)
    task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    await asyncio.wait({task})


def start_if_blocking(function: Callable[[], Awaitable[None]]) -> None:
    """Nothing: it is awaited later."""


_closing: set[Any] = set()
"""Readers of answers that are about to be closed."""


def current_loop() -> Any:
    """The loop to which what is made now belongs."""
    return asyncio.get_running_loop()


def close_later(response: httpx.Response, chunks: Any, loop: Any) -> None:
    """Closes what nobody holds any more, soon; may be called at any time and by any thread, as garbage is collected.
    ``chunks`` reads it, and lives until it is closed: its own end would close it here and now."""

    async def end() -> None:
        await response.aclose()
        _closing.discard(chunks)

    def close() -> None:
        task = loop.create_task(end())
        _unfinished.add(task)
        task.add_done_callback(_unfinished.discard)
        task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())

    _closing.add(chunks)
    try:
        loop.call_soon_threadsafe(close)
    except RuntimeError:
        # The loop has ended, and its connections with it.
        pass


_shared_by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Any]] = WeakKeyDictionary()


def shared_state() -> dict[str, Any]:
    """What all tasks of this event loop share: connections belong to the loop that made them."""
    return _shared_by_loop.setdefault(asyncio.get_running_loop(), {})

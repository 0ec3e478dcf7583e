"""A program in a sandbox."""

from __future__ import annotations

from typing import Optional

from fumehood._async.run import AsyncRun
from fumehood._concurrency_async import run_shielded
from fumehood._models import Outcome
from fumehood._settings import CLEANUP_TIMEOUT_S


class AsyncProcess(AsyncRun):
    """A program that runs in a sandbox, until it ends, is killed, or its sandbox ends."""

    async def wait(self, timeout: Optional[float] = None) -> Outcome:
        """How it ended, with its output; waits for that, for ``timeout`` seconds at most.

        Raises:
            TimeoutError: it goes on.
        """
        return await self.outcome(timeout=timeout)

    async def kill(self) -> None:
        """Sends SIGKILL to it and what it has started."""
        await self.signal("SIGKILL")

    async def terminate(self) -> None:
        """Sends SIGTERM to it and what it has started."""
        await self.signal("SIGTERM")

    async def _interrupted(self, interruption: BaseException) -> None:
        # A task that gives up waiting does not mean the program; a person at the keyboard does.
        end = isinstance(interruption, KeyboardInterrupt) or not self._cancel_on_close
        await run_shielded(self.close if end else self._reconnect, CLEANUP_TIMEOUT_S)

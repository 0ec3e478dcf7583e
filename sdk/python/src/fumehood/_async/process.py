"""Programs in a sandbox."""

from __future__ import annotations

from typing import Optional

from fumehood._async.run import AsyncRun
from fumehood._concurrency_async import run_shielded
from fumehood._models import Outcome
from fumehood._settings import CLEANUP_TIMEOUT_S


class AsyncProcess(AsyncRun):
    """A program in a sandbox. It runs until it exits, is killed, or its sandbox ends."""

    async def wait(self, timeout: Optional[float] = None) -> Outcome:
        """Waits for the program to end, for at most ``timeout`` seconds. Returns its outcome.

        Raises:
            TimeoutError: the program is still running; it continues.
        """
        return await self.outcome(timeout=timeout)

    async def kill(self) -> None:
        """Sends SIGKILL to the program and its child processes."""
        await self.signal("SIGKILL")

    async def terminate(self) -> None:
        """Sends SIGTERM to the program and its child processes."""
        await self.signal("SIGTERM")

    async def _interrupted(self, interruption: BaseException) -> None:
        # A cancelled wait is not meant for the program; Ctrl-C is.
        ends_program = isinstance(interruption, KeyboardInterrupt) or not self._cancel_on_close
        await run_shielded(self.close if ends_program else self._reconnect, CLEANUP_TIMEOUT_S)

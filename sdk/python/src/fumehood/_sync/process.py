# Made by tools/make_sync.py from _async/process.py; not to be changed by hand.
"""A program in a sandbox."""

from __future__ import annotations

from typing import Optional

from fumehood._sync.run import Run
from fumehood._concurrency_sync import run_shielded
from fumehood._models import Outcome
from fumehood._settings import CLEANUP_TIMEOUT_S


class Process(Run):
    """A program that runs in a sandbox, until it ends, is killed, or its sandbox ends."""

    def wait(self, timeout: Optional[float] = None) -> Outcome:
        """How it ended, with its output; waits for that, for ``timeout`` seconds at most.

        Raises:
            TimeoutError: it goes on.
        """
        return self.outcome(timeout=timeout)

    def kill(self) -> None:
        """Sends SIGKILL to it and what it has started."""
        self.signal("SIGKILL")

    def terminate(self) -> None:
        """Sends SIGTERM to it and what it has started."""
        self.signal("SIGTERM")

    def _interrupted(self, interruption: BaseException) -> None:
        # A task that gives up waiting does not mean the program; a person at the keyboard does.
        end = isinstance(interruption, KeyboardInterrupt) or not self._cancel_on_close
        run_shielded(self.close if end else self._reconnect, CLEANUP_TIMEOUT_S)

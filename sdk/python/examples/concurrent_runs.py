#!/usr/bin/env python3
"""Runs several programs at the same time, each in its own microVM, and retries those for which the server is busy.

python concurrent_runs.py [COUNT]
"""

from __future__ import annotations

import asyncio
import sys

from fumehood import BusyError, arun


async def square(number: int) -> int:
    """Returns the square of a number, computed in a VM."""
    while True:
        try:
            outcome = await arun(f"print({number} ** 2)", check=True)
            return int(outcome.stdout)
        except BusyError as error:
            await asyncio.sleep(error.retry_after or 1.0)


async def main() -> None:
    """Prints the squares of the first numbers."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 4
    print(await asyncio.gather(*(square(number) for number in range(count))))


if __name__ == "__main__":
    asyncio.run(main())

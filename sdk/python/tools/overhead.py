#!/usr/bin/env python3
"""Measures the overhead of the SDK and the server: the time of a call minus that of the run (`timing.total_ms`).

python tools/overhead.py [ROUNDS]        medians of this many runs (default: 20)
"""

from __future__ import annotations

import statistics
import sys
import time

from fumehood import Client


def main() -> None:
    """Prints medians in milliseconds."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    with Client() as client:
        client.run("print(1)", check=True)
        outer: list[float] = []
        added: list[float] = []
        for _ in range(rounds):
            start = time.perf_counter()
            outcome = client.run("print(1)", check=True)
            took = (time.perf_counter() - start) * 1e3
            outer.append(took)
            added.append(took - (outcome.timing.total_ms or 0.0))
        print(
            f"{rounds} runs of `print(1)` ({outcome.source}): {statistics.median(outer):.1f} ms, of which"
            f" {statistics.median(added):.1f} ms are overhead (maximum {max(added):.1f})"
        )


if __name__ == "__main__":
    main()

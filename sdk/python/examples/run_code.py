#!/usr/bin/env python3
"""Runs one program in a fresh microVM and prints how it ended.

python run_code.py 'print(6 * 7)'
"""

from __future__ import annotations

import sys

from fumehood import FumehoodError, run


def main() -> int:
    """Returns the exit code of the program, or 125 if there is no outcome."""
    code = sys.argv[1] if len(sys.argv) > 1 else "print(6 * 7)"

    try:
        outcome = run(code, timeout=10, on_stdout=sys.stdout.write, on_stderr=sys.stderr.write)
    except FumehoodError as error:
        print(f"{error} (retry: {error.retry})", file=sys.stderr)
        return 125

    print(f"{outcome.ended_by} with {outcome.exit_code} after {outcome.timing.total_ms or 0:.0f} ms", file=sys.stderr)
    return outcome.exit_code if outcome.exit_code is not None else 125


if __name__ == "__main__":
    raise SystemExit(main())

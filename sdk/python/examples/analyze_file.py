#!/usr/bin/env python3
"""Analyzes a CSV file in a sandbox: uploads it, runs code on it step by step, and downloads the result.

python analyze_file.py numbers.csv
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from fumehood import Sandbox


def main() -> None:
    """Prints the sum of each column, and writes the rows in reverse order to ``reversed.csv``."""
    with tempfile.TemporaryDirectory() as directory:
        if len(sys.argv) > 1:
            source = Path(sys.argv[1])
        else:
            source = Path(directory) / "numbers.csv"
            source.write_text("a,b\n1,10\n2,20\n")

        with Sandbox(idle_timeout=60) as sandbox:
            sandbox.files.upload(source, "input.csv")

            # State is kept between runs, as in a notebook.
            sandbox.run("import csv; rows = list(csv.DictReader(open('input.csv')))", check=True)
            sums = sandbox.run("{name: sum(float(row[name]) for row in rows) for name in rows[0]}", check=True)
            print(sums.text)

            code = """
with open("reversed.csv", "w", newline="") as file:
    writer = csv.DictWriter(file, rows[0].keys())
    writer.writeheader()
    writer.writerows(reversed(rows))
"""
            sandbox.run(code, check=True)
            print(sandbox.files.download("reversed.csv", directory).read_text(), end="")


if __name__ == "__main__":
    main()

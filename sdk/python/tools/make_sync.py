#!/usr/bin/env python3
"""Makes the synchronous half of the SDK, `_sync`, from the asynchronous one, `_async`.

    python tools/make_sync.py            writes it
    python tools/make_sync.py --check    says whether it is out of date
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "src" / "fumehood"

MARK = "# Made by tools/make_sync.py from _async/{name}; not to be changed by hand.\n"

RULES = [
    (r"\basync (def|with|for)\b", r"\1"),
    (r"\bawait (its|the)\b", r"call \1"),
    (r"\bawait ", ""),
    (r"\bAwaitable\[(\w+)\]", r"\1"),
    (r"(, )?\bAwaitable\b(?!\[)", ""),
    (r"\bAsyncIterator\b", "Iterator"),
    (r"\bAsyncHTTPTransport\b", "HTTPTransport"),
    (r"\bAsync(?=[A-Z])", ""),
    (r"\ba(run|stream|close|read|iter_bytes)\b(?=\W)", r"\1"),
    (r"\banext\(", "next("),
    (r"\b__a(enter|exit|iter|next)__\b", r"__\1__"),
    (r"\b_concurrency_async\b", "_concurrency_sync"),
    (r"\b_async\b", "_sync"),
    (r" A function may be asynchronous where the SDK is\.", ""),
]


def sync_text(name: str, text: str) -> str:
    """The synchronous twin of a module's text."""
    for pattern, replacement in RULES:
        text = re.sub(pattern, replacement, text)
    ast.parse(text, name)
    left = re.search(r"\b(async|await|Async\w*)\b", text)
    if left:
        raise SystemExit(f"{name}: `{left.group()}` is left; add a rule to tools/make_sync.py")
    return MARK.format(name=name) + text


def wanted() -> dict[Path, str]:
    """Each file of the synchronous half, with the text that it must have."""
    sources = sorted((PACKAGE / "_async").glob("*.py"))
    return {PACKAGE / "_sync" / source.name: sync_text(source.name, source.read_text()) for source in sources}


def faults() -> list[str]:
    """The files that are not as they must be."""
    files = wanted()
    there = set((PACKAGE / "_sync").glob("*.py"))
    stale = [path for path, text in files.items() if path not in there or path.read_text() != text]
    return [path.name for path in [*stale, *sorted(there - files.keys())]]


def main() -> None:
    """Writes, or checks."""
    if "--check" in sys.argv[1:]:
        found = faults()
        if found:
            raise SystemExit(f"out of date: {', '.join(found)}; run python tools/make_sync.py")
        return
    for path, text in wanted().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main()

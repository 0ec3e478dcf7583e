"""Names of languages."""

from __future__ import annotations

_NAMES = {
    "python": ("python", "py"),
    "javascript": ("javascript", "js", "typescript", "ts"),
    "shell": ("shell", "bash", "sh"),
}
"""The names that the server accepts, by the name that it reports."""

_BY_NAME = {name: language for language, names in _NAMES.items() for name in names}


def canonical_language(name: str) -> str:
    """Returns the name that the server reports for a language. An unknown name is returned unchanged: the server
    rejects it with the names that it supports."""
    return _BY_NAME.get(name, name)

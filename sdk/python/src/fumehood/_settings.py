"""The server's address, timeouts and limits."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Optional
from uuid import uuid4

from fumehood._errors import InvalidError

REQUEST_TIMEOUT_S = 60.0
"""Timeout of an ordinary request, in seconds."""

CREATE_TIMEOUT_S = 150.0
"""Timeout for creating a VM, in seconds: 30 s in the queue, and a boot under software emulation."""

PACKAGES_TIMEOUT_S = 900.0
"""Timeout for installing packages, in seconds. They may be downloaded and compiled."""

CONNECT_TIMEOUT_S = 10.0

EVENT_TIMEOUT_S = 45.0
"""Seconds without data after which an event stream counts as broken. The server sends a comment every 15 s."""

CLEANUP_TIMEOUT_S = 5.0
"""Timeout for cancelling a run, in seconds. The server also cancels runs without clients by itself."""

RETRY_PAUSES_S = (0.0, 0.1, 0.3, 0.6, 1.2)
"""Pauses before the retries of a request whose connection broke, in seconds. The first ones are short, since a run
without a client is cancelled after 2 s."""

MAX_CAPTURED_BYTES = 10 * 1024 * 1024
"""Maximum number of bytes that an outcome holds of each stream, and of values."""

CHUNK_BYTES = 256 * 1024
"""Size of the chunks in which files are read and sent, in bytes."""


@dataclass(frozen=True)
class Address:
    """The address of a server: a URL, or a local socket. ``is_local``: this user's local server, which may be
    started."""

    url: str
    socket: Optional[Path] = None
    is_local: bool = False


def address_from(base_url: Optional[str]) -> Address:
    """Returns the address given by an argument, by FUMEHOOD_URL, or else that of the local server.

    Raises:
        InvalidError: the URL is not an http, https or unix URL.
    """
    base_url = base_url or os.environ.get("FUMEHOOD_URL") or None
    if base_url is None:
        return Address("http://localhost", is_local=True)
    if base_url.startswith("unix:"):
        path = re.sub("^unix:(//)?", "", base_url)
        if not path.startswith("/"):
            raise InvalidError(
                f"{base_url}: the path of a socket must be absolute, such as unix:///run/x.sock", retry="never"
            )
        return Address("http://localhost", socket=Path(path))
    if not base_url.startswith(("http://", "https://")):
        raise InvalidError(f"{base_url}: the URL must start with http://, https:// or unix:///", retry="never")
    return Address(base_url.rstrip("/"))


def key_from(api_key: Optional[str]) -> Optional[str]:
    """Returns the API key given by an argument or by FUMEHOOD_API_KEY."""
    return api_key or os.environ.get("FUMEHOOD_API_KEY") or None


def new_key() -> str:
    """Returns a new idempotency key."""
    return uuid4().hex

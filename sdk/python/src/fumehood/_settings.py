"""Where the server is, and how long it may take."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Optional
from uuid import uuid4

from fumehood._errors import InvalidError

REQUEST_TIMEOUT_S = 60.0
"""Seconds in which an ordinary request must be answered."""

CREATE_TIMEOUT_S = 150.0
"""Seconds in which a VM must be there: 30 s in the queue, and a boot under software emulation."""

PACKAGES_TIMEOUT_S = 900.0
"""Seconds in which packages must be there: they may be downloaded and compiled."""

CONNECT_TIMEOUT_S = 10.0

EVENT_TIMEOUT_S = 45.0
"""Seconds without a byte after which an event stream is taken for dead: the server says something each 15 s."""

CLEANUP_TIMEOUT_S = 5.0
"""Seconds that the cancelling of a run may take: the server does it by itself when nobody follows."""

RETRY_PAUSES_S = (0.0, 0.1, 0.3, 0.6, 1.2)
"""Pauses before each further try of a request whose connection broke. The first are short: a run that nobody
follows for 2 s is cancelled."""

MAX_CAPTURED_BYTES = 10 * 1024 * 1024
"""Bytes of each stream, and of values, that an outcome keeps."""

CHUNK_BYTES = 256 * 1024
"""Bytes of a file that are read and sent at a time."""


@dataclass(frozen=True)
class Address:
    """Where a server is: a URL, or a socket of this machine. ``own``: it may be started there."""

    url: str
    socket: Optional[Path] = None
    own: bool = False


def address_from(base_url: Optional[str]) -> Address:
    """The address that is meant by an argument, the variable FUMEHOOD_URL, or neither.

    Raises:
        InvalidError: it is no URL of http, https or unix.
    """
    base_url = base_url or os.environ.get("FUMEHOOD_URL") or None
    if base_url is None:
        return Address("http://localhost", own=True)
    if base_url.startswith("unix:"):
        path = re.sub("^unix:(//)?", "", base_url)
        if not path.startswith("/"):
            raise InvalidError(f"{base_url}: a socket's path is absolute, as unix:///run/x.sock", retry="never")
        return Address("http://localhost", socket=Path(path))
    if not base_url.startswith(("http://", "https://")):
        raise InvalidError(f"{base_url}: give a URL that begins with http://, https:// or unix:///", retry="never")
    return Address(base_url.rstrip("/"))


def key_from(api_key: Optional[str]) -> Optional[str]:
    """The key that is meant by an argument or by the variable FUMEHOOD_API_KEY."""
    return api_key or os.environ.get("FUMEHOOD_API_KEY") or None


def new_key() -> str:
    """A new idempotency key."""
    return uuid4().hex

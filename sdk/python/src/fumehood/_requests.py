"""Bodies of API requests."""

from __future__ import annotations

import base64
import math
import os
from pathlib import Path
from typing import Any, Mapping, Optional, Sequence, Union
from urllib.parse import quote

from fumehood._errors import InvalidError
from fumehood._models import Checkpoint
from fumehood._network import NetworkLike, network_to_json

StdinLike = Union[str, bytes, bool, None]
"""Standard input of a program: text or bytes, ``True`` for input that is written later, or ``None``."""

UploadLike = Union[str, bytes, "os.PathLike[str]"]
"""Content of a file to upload: text, bytes, or the path of a local file."""

Strings = Union[str, Sequence[str]]


def path_segment(name: str) -> str:
    """Returns an ID or a name as one segment of a path.

    Raises:
        InvalidError: it is empty, ``.`` or ``..``: a path with it would name something else.
    """
    if name in ("", ".", ".."):
        raise InvalidError(f"{name!r} is not an ID or a name", retry="never")
    return quote(name, safe="")


def whole_seconds(name: str, seconds: Optional[float]) -> Optional[int]:
    """Returns seconds as the API counts them, rounded up.

    Raises:
        InvalidError: the value is negative or not a number.
    """
    if seconds is None:
        return None
    if not math.isfinite(seconds) or seconds < 0:
        raise InvalidError(f"{name}={seconds}: expected a non-negative number of seconds", retry="never")
    return math.ceil(seconds)


def to_string_list(name: str, given: Strings) -> list[str]:
    """Returns a list of strings. A single string becomes a list of one.

    Raises:
        InvalidError: an element is not a string.
    """
    listed = [given] if isinstance(given, str) else list(given)
    if not all(isinstance(string, str) for string in listed):
        raise InvalidError(f"{name}={given!r}: expected strings", retry="never")
    return listed


def without_none(**fields: Any) -> dict[str, Any]:
    """Returns the fields that are not ``None``."""
    return {name: value for name, value in fields.items() if value is not None}


def split_stdin(stdin: StdinLike) -> tuple[Union[str, bool, None], Optional[bytes]]:
    """Returns the input to send with the request, and the input to send after the start: bytes that are not valid
    UTF-8."""
    if isinstance(stdin, bytes):
        try:
            return stdin.decode(), None
        except UnicodeDecodeError:
            return True, stdin
    return stdin or None, None


def uploads_to_json(uploads: Mapping[str, UploadLike]) -> list[dict[str, str]]:
    """Returns files to upload in the form of the API. Local files are read."""
    return [{"path": path, **_content_to_json(content)} for path, content in uploads.items()]


def _content_to_json(content: UploadLike) -> dict[str, str]:
    if isinstance(content, str):
        return {"text": content}

    data = content if isinstance(content, bytes) else Path(content).read_bytes()
    try:
        return {"text": data.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


def code_body(
    *,
    code: str,
    language: Optional[str] = None,
    args: Optional[Sequence[str]] = None,
    env: Optional[Mapping[str, str]] = None,
    cwd: Optional[str] = None,
    timeout: Optional[float] = None,
    stdin: Union[str, bool, None] = None,
    display: bool = True,
    fresh_interpreter: bool = False,
    detach: bool = False,
    memory_mib: Optional[int] = None,
    packages: Optional[Strings] = None,
    refresh_packages: bool = False,
    network: NetworkLike = None,
    uploads: Optional[Mapping[str, UploadLike]] = None,
    downloads: Optional[Strings] = None,
    context: Optional[str] = None,
) -> dict[str, Any]:
    """Returns the request for a run of code.

    Raises:
        InvalidError: ``args`` is a string or has an element that is none.
    """
    if isinstance(args, str):
        raise InvalidError(f"args={args!r}: expected a list of arguments, such as {args.split()!r}", retry="never")
    return without_none(
        language=language,
        code=code,
        args=to_string_list("args", args) if args else None,
        env=dict(env) if env else None,
        cwd=cwd,
        timeout_s=whole_seconds("timeout", timeout),
        stdin=stdin,
        display=display or None,
        fresh_interpreter=fresh_interpreter or None,
        detach=detach or None,
        memory_mib=memory_mib,
        packages=to_string_list("packages", packages) if packages else None,
        refresh_packages=refresh_packages or None,
        network=network_to_json(network),
        uploads=uploads_to_json(uploads) if uploads else None,
        downloads=to_string_list("downloads", downloads) if downloads else None,
        context=context,
    )


def process_body(
    *,
    argv: Strings,
    env: Optional[Mapping[str, str]] = None,
    cwd: Optional[str] = None,
    timeout: Optional[float] = None,
    stdin: Union[str, bool, None] = None,
    pty: Optional[tuple[int, int]] = None,
    tag: Optional[str] = None,
    detach: bool = False,
) -> dict[str, Any]:
    """Returns the request for a program.

    Raises:
        InvalidError: ``argv`` is a string or has an element that is none.
    """
    if isinstance(argv, str):
        raise InvalidError(
            f"argv={argv!r}: expected a list of arguments, such as {argv.split()!r}, or ['sh', '-c', {argv!r}]",
            retry="never",
        )
    return without_none(
        argv=to_string_list("argv", argv),
        env=dict(env) if env else None,
        cwd=cwd,
        timeout_s=whole_seconds("timeout", timeout),
        stdin=stdin,
        pty={"rows": pty[0], "cols": pty[1]} if pty else None,
        tag=tag,
        detach=detach or None,
    )


def sandbox_body(
    *,
    language: Optional[str] = None,
    memory_mib: Optional[int] = None,
    idle_timeout: Optional[float] = None,
    max_lifetime: Optional[float] = None,
    network: NetworkLike = None,
    packages: Optional[Strings] = None,
    refresh_packages: bool = False,
    checkpoint: Union[str, Checkpoint, None] = None,
    name: Optional[str] = None,
    on_idle: Optional[str] = None,
    lifetime_counts: Optional[str] = None,
    checkpoint_every: Optional[float] = None,
) -> dict[str, Any]:
    """Returns the request for a sandbox."""
    # The language of a checkpoint must not be repeated.
    is_new = checkpoint is None
    return without_none(
        language=language if is_new else None,
        memory_mib=memory_mib,
        idle_timeout_s=whole_seconds("idle_timeout", idle_timeout),
        max_lifetime_s=whole_seconds("max_lifetime", max_lifetime),
        network=network_to_json(network),
        packages=to_string_list("packages", packages) if packages else None,
        refresh_packages=refresh_packages or None,
        checkpoint=checkpoint.id if isinstance(checkpoint, Checkpoint) else checkpoint,
        name=name,
        on_idle=on_idle,
        lifetime_counts=lifetime_counts,
        checkpoint_every_s=whole_seconds("checkpoint_every", checkpoint_every),
    )

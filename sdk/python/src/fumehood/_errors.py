"""Exceptions, by kind. Each says whether repeating the call can help."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Optional

if TYPE_CHECKING:
    from fumehood._models import Outcome

Retry = Literal["safe", "never", "unknown"]


class FumehoodError(Exception):
    """A call failed. The message says what failed, why, and how to fix it."""

    kind: str
    """Stable name of the failure, such as ``invalid`` or ``busy``."""
    retry: Retry
    """``safe``: nothing has been done, so the call can be repeated; ``never``: the call fails again until something is
    changed; ``unknown``: it may have been executed."""
    request_id: Optional[str]
    """ID of the request in the server's log."""
    status: Optional[int]
    """HTTP status, if a server answered."""
    io: Optional[str]
    """Failure of a file operation in a sandbox: ``not_found``, ``permission_denied``, ``already_exists``,
    ``is_a_directory``, ``not_a_directory``, ``no_space`` or ``other``."""

    default_kind = "other"

    def __init__(
        self,
        message: str,
        *,
        kind: Optional[str] = None,
        retry: Retry = "unknown",
        request_id: Optional[str] = None,
        status: Optional[int] = None,
        io: Optional[str] = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.kind = kind or self.default_kind
        self.retry = retry
        self.request_id = request_id
        self.status = status
        self.io = io

    def __str__(self) -> str:
        return self.message


class InvalidError(FumehoodError):
    """The request is invalid: a limit, a value or a name."""

    default_kind = "invalid"


class UnauthorizedError(FumehoodError):
    """The API key is missing or not valid."""

    default_kind = "unauthorized"


class ForbiddenError(FumehoodError):
    """The API key does not permit the request, or the guest's user may not access the file."""

    default_kind = "forbidden"


class NotFoundError(FumehoodError):
    """The resource does not exist, or belongs to another API key."""

    default_kind = "not_found"


class ConflictError(FumehoodError):
    """The current state does not allow the request, or its idempotency key was used for another request."""

    default_kind = "conflict"


class LostError(FumehoodError):
    """The sandbox has ended, or the VM, its agent or the server was lost."""

    default_kind = "lost"
    ended: Optional[str] = None
    """Why the sandbox ended, if the server reports it: ``requested``, ``idle``, ``lifetime``, ``lost``,
    ``operator``, ``key_revoked``, ``server_stopped`` or ``server_lost``."""


class BusyError(FumehoodError):
    """No capacity, or too many requests. ``retry_after``: seconds until a retry makes sense, if known."""

    default_kind = "busy"
    retry_after: Optional[float] = None


class ProtocolError(FumehoodError):
    """An answer could not be understood."""

    default_kind = "protocol"


class UnreachableError(FumehoodError):
    """A package index could not be reached, or did not answer in time."""

    default_kind = "unreachable"


class MissingError(FumehoodError):
    """A requirement is not installed or built: the fumehood binary, QEMU or the image."""

    default_kind = "missing"


class DamagedError(FumehoodError):
    """A requirement is damaged, such as a part of the image."""

    default_kind = "damaged"


class HostError(FumehoodError):
    """The server's machine denied an operation or ran out of a resource."""

    default_kind = "host"


class BootError(FumehoodError):
    """The VM did not start, or its agent did not answer in time."""

    default_kind = "boot"


class DrainingError(FumehoodError):
    """The server is shutting down and accepts no new work."""

    default_kind = "draining"


class StorageFullError(FumehoodError):
    """The disk of the server's state is full; the request was not carried out."""

    default_kind = "storage_full"


class ServerError(FumehoodError):
    """The server could not be reached or started, or did not answer in time."""

    default_kind = "server"


class DeadlineError(ServerError):
    """The server did not answer in time."""

    default_kind = "timeout"


class RunFailedError(FumehoodError):
    """The code ran but did not succeed; raised by ``check``. ``outcome`` is its complete outcome."""

    default_kind = "run_failed"
    outcome: Outcome


_BY_KIND: dict[str, type[FumehoodError]] = {
    error.default_kind: error
    for error in (
        InvalidError,
        UnauthorizedError,
        ForbiddenError,
        NotFoundError,
        ConflictError,
        LostError,
        BusyError,
        ProtocolError,
        UnreachableError,
        MissingError,
        DamagedError,
        HostError,
        BootError,
        DrainingError,
        StorageFullError,
        DeadlineError,
    )
}
_BY_KIND["internal"] = ServerError

_INVALID_KINDS = frozenset(
    {
        "method_not_allowed",
        "not_acceptable",
        "too_large",
        "unsupported_media_type",
        "range_not_satisfiable",
    }
)


def error_from(
    body: Any,
    *,
    status: Optional[int] = None,
    request_id: Optional[str] = None,
    retry_after: Optional[str] = None,
) -> FumehoodError:
    """Returns the exception for an error of the server: the object ``error`` of an answer, or the data of an event
    ``failed``."""
    fields = body.get("error", body) if isinstance(body, dict) else {}
    fields = fields if isinstance(fields, dict) else {}

    kind, retry = fields.get("kind"), fields.get("retry")
    if not isinstance(kind, str):
        kind = "protocol"
    message = fields.get("message")
    if not isinstance(message, str):
        message = f"the server answered {status} without an error description"

    error_class = InvalidError if kind in _INVALID_KINDS else _BY_KIND.get(kind, FumehoodError)
    error = error_class(
        message,
        kind=kind,
        retry=retry if retry in ("safe", "never", "unknown") else "unknown",
        request_id=fields.get("request_id") or request_id,
        status=status,
        io=fields.get("io"),
    )

    if isinstance(error, LostError):
        error.ended = fields.get("ended")
    if isinstance(error, BusyError) and retry_after is not None:
        try:
            error.retry_after = float(retry_after)
        except ValueError:
            pass
    return error

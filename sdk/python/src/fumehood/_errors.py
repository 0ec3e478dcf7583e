"""What goes wrong, by kind, and whether asking again can help."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Optional

if TYPE_CHECKING:
    from fumehood._models import Outcome

Retry = Literal["safe", "never", "unknown"]


class FumehoodError(Exception):
    """Why there is no answer. Its text says what failed, why, and what to do."""

    kind: str
    """A stable word for what went wrong, such as ``invalid`` or ``busy``."""
    retry: Retry
    """``safe``: nothing has been done, ask again; ``never``: it will fail again until something is
    changed; ``unknown``: it may have been done."""
    request_id: Optional[str]
    """What the server's log calls the request."""
    status: Optional[int]
    """The status of HTTP, where a server answered."""
    io: Optional[str]
    """What went wrong with a file in a sandbox: ``not_found``, ``permission_denied``, ``already_exists``,
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
    """The request itself is not allowed: a limit, a value, a name."""

    default_kind = "invalid"


class UnauthorizedError(FumehoodError):
    """There is no key, or not a valid one."""

    default_kind = "unauthorized"


class ForbiddenError(FumehoodError):
    """This key may not do it, or the guest's user may not touch that file."""

    default_kind = "forbidden"


class NotFoundError(FumehoodError):
    """There is no such thing, or it belongs to another key."""

    default_kind = "not_found"


class ConflictError(FumehoodError):
    """The state of things does not allow it, or an idempotency key was used for another request."""

    default_kind = "conflict"


class LostError(FumehoodError):
    """The sandbox has ended, or its VM, its agent or the server went away."""

    default_kind = "lost"
    ended: Optional[str] = None
    """Why the sandbox has ended, where the server says it: ``asked``, ``idle``, ``lifetime``, ``lost``,
    ``server_stopped`` or ``server_lost``."""


class BusyError(FumehoodError):
    """No room, or too many requests. ``retry_after``: seconds after which to ask again, where they are known."""

    default_kind = "busy"
    retry_after: Optional[float] = None


class ProtocolError(FumehoodError):
    """An answer was not what it must be."""

    default_kind = "protocol"


class UnreachableError(FumehoodError):
    """A package index was not reached, or what it was asked for did not come in time."""

    default_kind = "unreachable"


class MissingError(FumehoodError):
    """Something that must be installed or built first is not there: the program, QEMU, the image."""

    default_kind = "missing"


class DamagedError(FumehoodError):
    """Something is there and damaged: a part of the image."""

    default_kind = "damaged"


class HostError(FumehoodError):
    """The server's machine does not permit it, or gives no more of something."""

    default_kind = "host"


class BootError(FumehoodError):
    """The VM did not start, or its agent did not answer in time."""

    default_kind = "boot"


class DrainingError(FumehoodError):
    """The server is about to stop and takes no new work."""

    default_kind = "draining"


class ServerError(FumehoodError):
    """No server was reached, none could be started, or it did not answer in time."""

    default_kind = "server"


class DeadlineError(ServerError):
    """The server did not answer in time."""

    default_kind = "timeout"


class RunFailedError(FumehoodError):
    """The code ran and did not succeed; raised by ``check``. ``outcome`` has all of it."""

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
    """The error that the server's JSON describes: its object ``error``, or an event ``failed``."""
    told = body.get("error", body) if isinstance(body, dict) else {}
    told = told if isinstance(told, dict) else {}
    kind, retry = told.get("kind"), told.get("retry")
    if not isinstance(kind, str):
        kind = "protocol"
    message = told.get("message")
    if not isinstance(message, str):
        message = f"the server answered {status} without saying why"
    error = (InvalidError if kind in _INVALID_KINDS else _BY_KIND.get(kind, FumehoodError))(
        message,
        kind=kind,
        retry=retry if retry in ("safe", "never", "unknown") else "unknown",
        request_id=told.get("request_id") or request_id,
        status=status,
        io=told.get("io"),
    )
    if isinstance(error, LostError):
        error.ended = told.get("ended")
    if isinstance(error, BusyError) and retry_after is not None:
        try:
            error.retry_after = float(retry_after)
        except ValueError:
            pass
    return error

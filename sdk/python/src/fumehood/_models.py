"""What the server tells, as types. Fields that a newer server has and these have not are passed over."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Mapping, Optional, TypeVar

from fumehood._errors import RunFailedError
from fumehood._results import Result

T = TypeVar("T")


def dataclass_from(kind: type[T], data: Any) -> T:
    """A dataclass of those of the data's fields that it has."""
    data = data if isinstance(data, Mapping) else {}
    names = {item.name for item in dataclasses.fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in data.items() if name in names})


@dataclass(frozen=True)
class Timing:
    """Where a run's time went, in milliseconds."""

    queue_ms: Optional[float] = None
    """Until there was room for it."""
    start_ms: Optional[float] = None
    """Until its VM was there."""
    connect_ms: Optional[float] = None
    spawn_ms: Optional[float] = None
    first_output_ms: Optional[float] = None
    """From the request to the first byte of output; ``None`` where there was none."""
    execute_ms: Optional[float] = None
    teardown_ms: Optional[float] = None
    total_ms: Optional[float] = None


@dataclass(frozen=True)
class Evidence:
    """What shows why a run ended."""

    signal: Optional[int] = None
    """The signal that ended it, by its number."""
    oom_kills: Optional[int] = None
    """Processes that the kernel killed for want of memory."""
    peak_memory_bytes: Optional[int] = None
    cpu_time_us: Optional[int] = None
    """Time of a processor, in microseconds."""
    left_processes: Optional[int] = None
    """Processes that it left running and that were killed at its end."""
    detail: Optional[str] = None
    """For a person, where there is more to say."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended, and what it wrote."""

    exit_code: Optional[int]
    """What it exited with; 128 + n where signal n ended it; ``None`` where nobody knows."""
    ended_by: str
    """``exited``, ``signaled``, ``timeout``, ``cancelled``, ``out_of_memory``, ``output_limit``,
    ``agent_lost``, ``server_lost``."""
    stdout_bytes: bytes = field(repr=False)
    """Its standard output; at most 10 MiB are kept."""
    stderr_bytes: bytes = field(repr=False)
    """Its standard error; at most 10 MiB are kept."""
    results: list[Result]
    """The values that it showed; at most 10 MiB are kept."""
    stdout_truncated: bool = False
    """There was more of it than is kept."""
    stderr_truncated: bool = False
    results_truncated: bool = False
    evidence: Evidence = field(default_factory=Evidence, repr=False)
    timing: Timing = field(default_factory=Timing, repr=False)
    source: Optional[str] = None
    """Where its VM came from: ``hot``, ``blank``, ``template``, ``boot``, ``checkpoint``."""
    accelerator: Optional[str] = None
    isolation: Any = None
    """``"full"``, or ``{"reduced": [...]}`` with the walls that did not stand."""
    network: Optional[dict[str, Any]] = field(default=None, repr=False)
    """What it did on its network and what was denied; ``None`` where it had none."""
    id: Optional[str] = None
    """The run's id at the server."""
    sandbox: Optional[str] = None

    @property
    def stdout(self) -> str:
        """Its standard output as text; bytes that are none are U+FFFD."""
        return self.stdout_bytes.decode("utf-8", "replace")

    @property
    def stderr(self) -> str:
        """Its standard error as text; bytes that are none are U+FFFD."""
        return self.stderr_bytes.decode("utf-8", "replace")

    @property
    def text(self) -> Optional[str]:
        """The plain text of the last value that it showed."""
        return self.results[-1].text if self.results else None

    @property
    def ok(self) -> bool:
        """It exited by itself, with 0."""
        return self.ended_by == "exited" and self.exit_code == 0

    def check(self) -> Outcome:
        """Itself, where it succeeded.

        Raises:
            RunFailedError: it did not; the error has this outcome.
        """
        if self.ok:
            return self
        said = self.stderr.strip().splitlines()
        last = f": {said[-1][:500]}" if said else ""
        what = f"exited with {self.exit_code}" if self.ended_by == "exited" else f"ended by {self.ended_by}"
        error = RunFailedError(f"the code {what}{last}", retry="unknown")
        error.outcome = self
        raise error

    def _ipython_display_(self) -> None:
        """In a notebook: its output, then its values."""
        import sys

        from IPython.display import display  # type: ignore[import-not-found,unused-ignore]

        sys.stdout.write(self.stdout)
        sys.stderr.write(self.stderr)
        for result in self.results:
            display(result)
        if not self.ok:
            print(repr(self))


def outcome_from(
    told: Mapping[str, Any],
    stdout: bytes,
    stderr: bytes,
    results: list[Result],
    truncated: tuple[bool, bool, bool] = (False, False, False),
) -> Outcome:
    """An outcome from the run's JSON, and from what was read of it."""
    exit_code = told.get("exit_code")
    return Outcome(
        exit_code=exit_code if isinstance(exit_code, int) else None,
        ended_by=str(told.get("ended_by") or "server_lost"),
        stdout_bytes=stdout,
        stderr_bytes=stderr,
        results=results,
        stdout_truncated=truncated[0],
        stderr_truncated=truncated[1],
        results_truncated=truncated[2],
        evidence=dataclass_from(Evidence, told.get("evidence")),
        timing=dataclass_from(Timing, told.get("timing")),
        source=told.get("source"),
        accelerator=told.get("accelerator"),
        isolation=told.get("isolation"),
        network=told.get("network"),
        id=told.get("id"),
        sandbox=told.get("sandbox"),
    )


@dataclass(frozen=True)
class FileInfo:
    """What is at a path of a sandbox."""

    path: str
    """As it was asked for, or below the directory that is listed."""
    kind: str
    """``file``, ``directory``, ``link`` or ``other``."""
    size: int = 0
    """Bytes."""
    mode: int = 0
    """Permissions, 0 to 0o7777."""
    user: Optional[int] = None
    """Its owner's number."""
    modified: Optional[str] = None
    """When its content was changed last, as RFC 3339 has it."""
    target: Optional[str] = None
    """Where a link leads."""
    name: Optional[str] = None
    """The path's last part."""

    @property
    def is_dir(self) -> bool:
        """It is a directory."""
        return self.kind == "directory"


@dataclass(frozen=True)
class ProcessInfo:
    """A program that runs in a sandbox."""

    pid: int
    kind: str = ""
    """``exec``, ``context``, ``spawn`` or ``install``."""
    command: str = ""
    context: Optional[str] = None
    """The context that it is the interpreter of."""
    tag: Optional[str] = None
    attached: Optional[bool] = None
    """Somebody follows it."""
    age_ms: Optional[int] = None
    """Milliseconds since it was started."""
    pids: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class SandboxInfo:
    """What the server knows of a sandbox."""

    id: str
    state: str = ""
    """``running`` or ``ended``."""
    name: Optional[str] = None
    created_at: Optional[str] = None
    ended_at: Optional[str] = None
    ended: Optional[str] = None
    """``asked``, ``idle``, ``lifetime``, ``lost``, ``server_stopped`` or ``server_lost``."""
    ended_why: Optional[str] = None
    memory_mib: Optional[int] = None
    idle_timeout_s: Optional[float] = None
    """Seconds without anything going on after which it is ended."""
    max_lifetime_s: Optional[float] = None
    source: Optional[str] = None
    isolation: Any = None
    urls: list[str] = field(default_factory=list)
    """Where its exposed ports are reached."""
    language: Optional[str] = None


@dataclass(frozen=True)
class RunInfo:
    """What the server knows of a run, without its outputs."""

    id: str
    kind: str = ""
    """``code`` or ``process``."""
    state: str = ""
    """``queued``, ``running``, ``ended`` or ``failed``."""
    sandbox: Optional[str] = None
    created_at: Optional[str] = None
    ended_at: Optional[str] = None
    exit_code: Optional[int] = None
    ended_by: Optional[str] = None


@dataclass(frozen=True)
class Checkpoint:
    """A sandbox's saved state, from which others begin. It lives in the server's memory."""

    id: str
    bytes: Optional[int] = None
    created_at: Optional[str] = None


@dataclass(frozen=True)
class InstalledPackage:
    """A package that is installed."""

    name: str
    version: Optional[str] = None

"""Types of the server's answers. Fields that this version of the SDK does not know are ignored."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Mapping, Optional, TypeVar

from fumehood._errors import RunFailedError
from fumehood._results import Result

T = TypeVar("T")


def dataclass_from(kind: type[T], data: Any) -> T:
    """Returns a dataclass with those fields of the data that it knows. A field whose metadata has ``items`` is a list of
    that dataclass."""
    data = data if isinstance(data, Mapping) else {}
    values: dict[str, Any] = {}
    for item in dataclasses.fields(kind):  # type: ignore[arg-type]
        if item.name in data:
            value, items = data[item.name], item.metadata.get("items")
            values[item.name] = [dataclass_from(items, one) for one in value or []] if items else value
    return kind(**values)


@dataclass(frozen=True)
class Timing:
    """Durations of the phases of a run, in milliseconds."""

    queue_ms: Optional[float] = None
    """Waiting for capacity."""
    start_ms: Optional[float] = None
    """Starting the VM."""
    connect_ms: Optional[float] = None
    spawn_ms: Optional[float] = None
    first_output_ms: Optional[float] = None
    """From the request to the first byte of output; ``None`` if there was none."""
    execute_ms: Optional[float] = None
    teardown_ms: Optional[float] = None
    total_ms: Optional[float] = None


@dataclass(frozen=True)
class Evidence:
    """Evidence of why a run ended."""

    signal: Optional[int] = None
    """Number of the signal that ended it."""
    oom_kills: Optional[int] = None
    """Number of processes that the kernel killed because memory was exhausted."""
    peak_memory_bytes: Optional[int] = None
    cpu_time_us: Optional[int] = None
    """CPU time in microseconds."""
    left_processes: Optional[int] = None
    """Number of processes that were still running at the end and were killed."""
    detail: Optional[str] = None
    """Additional explanation for people."""


@dataclass(frozen=True)
class Download:
    """The result of a requested download."""

    remote: str
    """Path in the VM, as requested."""
    bytes: Optional[int] = None
    """Size of the file; ``None`` if the download failed."""
    error: Optional[str] = None
    """Why the download failed; ``None`` if it succeeded."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended, and its output."""

    exit_code: Optional[int]
    """Exit code; 128 + n if signal n ended the program; ``None`` if unknown."""
    ended_by: str
    """``exited``, ``signaled``, ``timeout``, ``cancelled``, ``out_of_memory``, ``output_limit``,
    ``agent_lost``, ``server_lost``."""
    stdout_bytes: bytes = field(repr=False)
    """Standard output, at most 10 MiB."""
    stderr_bytes: bytes = field(repr=False)
    """Standard error, at most 10 MiB."""
    results: list[Result]
    """Displayed values, at most 10 MiB."""
    stdout_truncated: bool = False
    """Whether standard output exceeded the limit."""
    stderr_truncated: bool = False
    results_truncated: bool = False
    evidence: Evidence = field(default_factory=Evidence, repr=False)
    timing: Timing = field(default_factory=Timing, repr=False)
    source: Optional[str] = None
    """Origin of the VM: ``hot_image``, ``template``, ``boot`` or ``checkpoint``; with KVM also ``hot``."""
    accelerator: Optional[str] = None
    isolation: Any = None
    """``"full"``, or ``{"reduced": [...]}`` with the missing isolation layers."""
    network: Optional[dict[str, Any]] = field(default=None, repr=False)
    """Summary of the network use and of denials; ``None`` if there was no network."""
    files: dict[str, bytes] = field(default_factory=dict, repr=False)
    """Contents of the downloaded files, by their paths as requested."""
    packages: list[InstalledPackage] = field(default_factory=list, repr=False)
    """Requested packages with their resolved versions; empty for a run in a sandbox."""
    downloads: list[Download] = field(default_factory=list, repr=False)
    """Results of all requested downloads, including failed ones."""
    id: Optional[str] = None
    """ID of the run on the server."""
    sandbox: Optional[str] = None

    @property
    def stdout(self) -> str:
        """Standard output as text. Bytes that are not valid UTF-8 become U+FFFD."""
        return self.stdout_bytes.decode("utf-8", "replace")

    @property
    def stderr(self) -> str:
        """Standard error as text. Bytes that are not valid UTF-8 become U+FFFD."""
        return self.stderr_bytes.decode("utf-8", "replace")

    @property
    def text(self) -> Optional[str]:
        """Plain text of the last displayed value."""
        return self.results[-1].text if self.results else None

    @property
    def ok(self) -> bool:
        """Whether the program exited with code 0."""
        return self.ended_by == "exited" and self.exit_code == 0

    def check(self) -> Outcome:
        """Returns the outcome itself if the code succeeded.

        Raises:
            RunFailedError: the code did not succeed; the exception has this outcome.
        """
        if self.ok:
            return self

        lines = self.stderr.strip().splitlines()
        last = f": {lines[-1][:500]}" if lines else ""
        what = f"exited with {self.exit_code}" if self.ended_by == "exited" else f"ended by {self.ended_by}"

        error = RunFailedError(f"the code {what}{last}", retry="unknown")
        error.outcome = self
        raise error

    def _ipython_display_(self) -> None:
        """Displays output and values in a notebook."""
        import sys

        from IPython.display import display  # type: ignore[import-not-found,unused-ignore]

        sys.stdout.write(self.stdout)
        sys.stderr.write(self.stderr)
        for result in self.results:
            display(result)
        if not self.ok:
            print(repr(self))


def outcome_from(
    run: Mapping[str, Any],
    stdout: bytes,
    stderr: bytes,
    results: list[Result],
    truncated: tuple[bool, bool, bool] = (False, False, False),
    files: Optional[Mapping[str, bytes]] = None,
) -> Outcome:
    """Returns an outcome for the JSON of a run and its captured output."""
    exit_code = run.get("exit_code")
    return Outcome(
        exit_code=exit_code if isinstance(exit_code, int) else None,
        ended_by=str(run.get("ended_by") or "server_lost"),
        stdout_bytes=stdout,
        stderr_bytes=stderr,
        results=results,
        stdout_truncated=truncated[0],
        stderr_truncated=truncated[1],
        results_truncated=truncated[2],
        evidence=dataclass_from(Evidence, run.get("evidence")),
        timing=dataclass_from(Timing, run.get("timing")),
        source=run.get("source"),
        accelerator=run.get("accelerator"),
        isolation=run.get("isolation"),
        network=run.get("network"),
        files=dict(files or {}),
        packages=[dataclass_from(InstalledPackage, package) for package in run.get("packages") or []],
        downloads=[dataclass_from(Download, download) for download in run.get("downloads") or []],
        id=run.get("id"),
        sandbox=run.get("sandbox"),
    )


@dataclass(frozen=True)
class FileInfo:
    """Information about a path in a sandbox."""

    path: str
    """Path as requested, or below the listed directory."""
    kind: str
    """``file``, ``directory``, ``link`` or ``other``."""
    size: int = 0
    """Size in bytes."""
    mode: int = 0
    """Permissions, 0 to 0o7777."""
    user: Optional[int] = None
    """User ID of the owner."""
    modified: Optional[str] = None
    """Time of the last modification, in RFC 3339 format."""
    target: Optional[str] = None
    """Target of a link."""
    name: Optional[str] = None
    """Last component of the path."""

    @property
    def is_dir(self) -> bool:
        """Whether the path is a directory."""
        return self.kind == "directory"


@dataclass(frozen=True)
class ProcessInfo:
    """A program running in a sandbox."""

    pid: int
    kind: str = ""
    """``exec``, ``context``, ``spawn`` or ``install``."""
    command: str = ""
    context: Optional[str] = None
    """Context of which the process is the interpreter."""
    tag: Optional[str] = None
    attached: Optional[bool] = None
    """Whether a client is attached."""
    age_ms: Optional[int] = None
    """Milliseconds since the start."""
    pids: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class RunningProgram:
    """A program that ran when the state of a sandbox was saved, and continues in each copy. The copies may draw the same
    random numbers, keys included, unless the program asks the kernel: start it again in each copy."""

    pid: int = 0
    name: str = ""
    """Name of the process, at most 15 characters. Processes choose their names."""


@dataclass(frozen=True)
class SandboxInfo:
    """Description of a sandbox."""

    id: str
    state: str = ""
    """``running``, ``pausing``, ``paused``, ``resuming`` or ``ended``."""
    name: Optional[str] = None
    created_at: Optional[str] = None
    ended_at: Optional[str] = None
    ended: Optional[str] = None
    """Why it ended: ``requested``, ``idle``, ``lifetime``, ``expired``, ``lost``, ``operator``, ``key_revoked``,
    ``server_stopped`` or ``server_lost``."""
    ended_why: Optional[str] = None
    paused_at: Optional[str] = None
    """When the state of a paused sandbox was saved."""
    state_bytes: Optional[int] = None
    """Bytes that the state of a paused sandbox takes on disk."""
    resumed_from: Optional[dict[str, Any]] = None
    """The checkpoint from which it continued after its server was killed: ``saved_at`` and ``age_s``."""
    memory_mib: Optional[int] = None
    idle_timeout_s: Optional[float] = None
    """Seconds without work after which the sandbox is paused, or ends."""
    on_idle: Optional[str] = None
    """``pause`` or ``end``."""
    max_lifetime_s: Optional[float] = None
    lifetime_counts: Optional[str] = None
    """Which time counts for ``max_lifetime_s``: ``running`` or ``always``."""
    checkpoint_every_s: Optional[float] = None
    """How often the server saves the running sandbox, in seconds."""
    source: Optional[str] = None
    isolation: Any = None
    urls: list[str] = field(default_factory=list)
    """URLs of the exposed ports."""
    language: Optional[str] = None
    """The language that it was started for."""
    inherited_programs: list[RunningProgram] = field(default_factory=list, metadata={"items": RunningProgram})
    """In a fork, or a sandbox from a checkpoint: programs that were left running in its origin, at most 32."""
    inherited_program_count: int = 0
    """Number of all these programs."""


@dataclass(frozen=True)
class RunInfo:
    """Description of a run, without its output."""

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
    """The saved state of a sandbox, from which new sandboxes start."""

    id: str
    name: Optional[str] = None
    """The name that may be used in place of the ID."""
    durable: bool = False
    """Whether it is on disk and survives the server. Others are in the server's memory."""
    sandbox: Optional[str] = None
    """The ID of its sandbox."""
    bytes: Optional[int] = None
    created_at: Optional[str] = None
    language: Optional[str] = None
    """The language that its sandbox was started for."""
    running_programs: list[RunningProgram] = field(default_factory=list, metadata={"items": RunningProgram})
    """Programs that were left running and continue in each copy, at most 32."""
    running_program_count: int = 0
    """Number of all these programs."""


@dataclass(frozen=True)
class InstalledPackage:
    """An installed package."""

    name: str
    version: Optional[str] = None

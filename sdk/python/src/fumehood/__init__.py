"""Run untrusted code in disposable microVMs on your own machine.

:func:`run` uses a fresh VM for each call, a :class:`Sandbox` keeps files, programs and interpreters between calls::

    from fumehood import run, Sandbox

    print(run("print(6 * 7)").stdout)

    with Sandbox() as sandbox:
        sandbox.run("x = 1")
        print(sandbox.run("x + 1").text)

The functions and classes whose names start with ``a`` or ``Async`` are the same for ``await``.
"""

from fumehood._async.api import arun, astream
from fumehood._async.client import AsyncClient
from fumehood._async.files import AsyncFiles
from fumehood._async.process import AsyncProcess
from fumehood._async.run import AsyncRun, AsyncStdin
from fumehood._async.sandbox import AsyncSandbox
from fumehood._errors import (
    BootError,
    BusyError,
    ConflictError,
    DamagedError,
    DeadlineError,
    DrainingError,
    ForbiddenError,
    FumehoodError,
    HostError,
    InvalidError,
    LostError,
    MissingError,
    NotFoundError,
    ProtocolError,
    RunFailedError,
    ServerError,
    StorageFullError,
    UnauthorizedError,
    UnreachableError,
)
from fumehood._events import (
    Event,
    FileEvent,
    GapEvent,
    NetworkEvent,
    PackagesEvent,
    PortExposedEvent,
    ResultEvent,
    StartedEvent,
    StderrEvent,
    StdoutEvent,
    UnknownEvent,
)
from fumehood._models import (
    Checkpoint,
    Download,
    Evidence,
    FileInfo,
    InstalledPackage,
    Outcome,
    ProcessInfo,
    RunInfo,
    RunningProgram,
    SandboxInfo,
    Timing,
)
from fumehood._network import Network
from fumehood._results import Result
from fumehood._sync.api import run, stream
from fumehood._sync.client import Client
from fumehood._sync.files import Files
from fumehood._sync.process import Process
from fumehood._sync.run import Run, Stdin
from fumehood._sync.sandbox import Sandbox

__version__ = "0.1.0"

__all__ = [
    "AsyncClient",
    "AsyncFiles",
    "AsyncProcess",
    "AsyncRun",
    "AsyncSandbox",
    "AsyncStdin",
    "BootError",
    "BusyError",
    "Checkpoint",
    "Client",
    "ConflictError",
    "DamagedError",
    "DeadlineError",
    "Download",
    "DrainingError",
    "Event",
    "Evidence",
    "FileEvent",
    "FileInfo",
    "Files",
    "ForbiddenError",
    "FumehoodError",
    "GapEvent",
    "HostError",
    "InstalledPackage",
    "InvalidError",
    "LostError",
    "MissingError",
    "Network",
    "NetworkEvent",
    "NotFoundError",
    "Outcome",
    "PackagesEvent",
    "PortExposedEvent",
    "Process",
    "ProcessInfo",
    "ProtocolError",
    "Result",
    "ResultEvent",
    "Run",
    "RunFailedError",
    "RunInfo",
    "RunningProgram",
    "Sandbox",
    "SandboxInfo",
    "ServerError",
    "StorageFullError",
    "StartedEvent",
    "StderrEvent",
    "Stdin",
    "StdoutEvent",
    "Timing",
    "UnauthorizedError",
    "UnknownEvent",
    "UnreachableError",
    "arun",
    "astream",
    "run",
    "stream",
]

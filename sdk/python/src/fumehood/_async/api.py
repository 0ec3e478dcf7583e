"""One-shot runs in one call."""

from __future__ import annotations

from typing import Any, Callable, Mapping, Optional, Sequence

from fumehood._async.client import AsyncClient, default_client
from fumehood._async.run import AsyncRun
from fumehood._models import Outcome
from fumehood._network import NetworkLike
from fumehood._requests import StdinLike, Strings, UploadLike
from fumehood._results import Result


async def arun(
    code: str,
    *,
    language: str = "python",
    args: Optional[Sequence[str]] = None,
    env: Optional[Mapping[str, str]] = None,
    cwd: Optional[str] = None,
    stdin: StdinLike = None,
    timeout: Optional[float] = None,
    memory_mib: Optional[int] = None,
    packages: Optional[Strings] = None,
    refresh_packages: bool = False,
    network: NetworkLike = None,
    uploads: Optional[Mapping[str, UploadLike]] = None,
    downloads: Optional[Strings] = None,
    display: Optional[bool] = None,
    fresh_interpreter: bool = False,
    check: bool = False,
    on_stdout: Optional[Callable[[str], Any]] = None,
    on_stderr: Optional[Callable[[str], Any]] = None,
    on_result: Optional[Callable[[Result], Any]] = None,
    idempotency_key: Optional[str] = None,
    client: Optional[AsyncClient] = None,
) -> Outcome:
    """Runs code in a fresh microVM and waits for it to end.

    An interrupt or a cancelled task cancels the run.

    Args:
        code: the program.
        language: ``python`` (``py``), ``javascript`` (``js``), ``typescript`` (``ts``) or ``shell`` (``bash``,
            ``sh``).
        args: arguments of the program: ``sys.argv[1:]``, ``process.argv.slice(2)`` or ``"$@"``.
        env: environment variables.
        cwd: working directory, absolute or relative to the user's home.
        stdin: standard input, as text or bytes.
        timeout: timeout in seconds; the server's default is 30.
        memory_mib: memory of the VM in MiB; the server's default is 512.
        packages: packages of the language, each with an optional version specifier, such as ``["pandas==2.*"]``.
            They are installed once and cached for later runs.
        refresh_packages: resolves the packages again instead of using the versions of earlier runs.
        network: destinations that the VM may reach (a :class:`Network`, or a list of rules); by default the VM
            has no network device.
        uploads: files to copy into the VM before the code starts: paths in the VM with their content, as text,
            bytes or the path of a local file (a :class:`pathlib.Path`). A request may have 8 MiB.
        downloads: paths in the VM of files to return in ``outcome.files``, at most 8 MiB together. They are read
            however the code ended; ``outcome.downloads`` says which ones failed.
        display: reports displayed values, as in a notebook: that of the last expression, plots, tables. It costs
            about 60 ms under software emulation. Default: only if ``on_result`` is given.
        fresh_interpreter: starts a new interpreter instead of using a warm one.
        check: raises :class:`RunFailedError` unless the code succeeds.
        on_stdout, on_stderr, on_result: callbacks for output and values as they arrive.
        idempotency_key: repeating a call with the same key returns the original run.
        client: the client to use; by default one for FUMEHOOD_URL or a local server.

    Raises:
        FumehoodError: the run has no outcome; ``retry`` says whether repeating the call can help.
    """
    return await (client or default_client()).run(
        code,
        language=language,
        args=args,
        env=env,
        cwd=cwd,
        stdin=stdin,
        timeout=timeout,
        memory_mib=memory_mib,
        packages=packages,
        refresh_packages=refresh_packages,
        network=network,
        uploads=uploads,
        downloads=downloads,
        display=display,
        fresh_interpreter=fresh_interpreter,
        check=check,
        on_stdout=on_stdout,
        on_stderr=on_stderr,
        on_result=on_result,
        idempotency_key=idempotency_key,
    )


def astream(code: str, *, client: Optional[AsyncClient] = None, **how: Any) -> AsyncRun:
    """Returns a run of code in a fresh microVM; iterate over it for its events.

    Takes the arguments of :func:`arun` without ``check``, and ``detach``: the run continues while no client is
    attached.
    """
    return (client or default_client()).stream(code, **how)

"""Code in a VM of its own, in one call."""

from __future__ import annotations

from typing import Any, Callable, Mapping, Optional

from fumehood._async.client import AsyncClient, default_client
from fumehood._async.run import AsyncRun
from fumehood._models import Outcome
from fumehood._network import NetworkLike
from fumehood._results import Result
from fumehood._requests import StdinLike, Strings


async def arun(
    code: str,
    *,
    language: str = "python",
    env: Optional[Mapping[str, str]] = None,
    cwd: Optional[str] = None,
    stdin: StdinLike = None,
    timeout: Optional[float] = None,
    memory_mib: Optional[int] = None,
    packages: Optional[Strings] = None,
    refresh_packages: bool = False,
    network: NetworkLike = None,
    display: Optional[bool] = None,
    fresh_interpreter: bool = False,
    check: bool = False,
    on_stdout: Optional[Callable[[str], Any]] = None,
    on_stderr: Optional[Callable[[str], Any]] = None,
    on_result: Optional[Callable[[Result], Any]] = None,
    idempotency_key: Optional[str] = None,
    client: Optional[AsyncClient] = None,
) -> Outcome:
    """Runs code in a fresh microVM of its own, to its end.

    An interrupt or a cancelled task cancels the run.

    Args:
        language: ``python``, ``javascript`` or ``shell``.
        env: variables.
        cwd: the directory in which it runs, below the user's home.
        stdin: its input, as text or bytes.
        timeout: seconds that it may take; the server's default is 30.
        memory_mib: the VM's memory in MiB; the server's default is 512.
        packages: packages of the language, each with a version specifier, as ``["pandas==2.*"]``. They are installed
            once; later runs with the same ones begin with them.
        refresh_packages: resolves them again, whatever versions they came to before.
        network: what the VM may reach (:class:`Network`, or a list of rules in words); none: no network device.
        display: values are shown as in a notebook: the last expression's, plots, tables. It costs some 60 ms under
            software emulation; none: where ``on_result`` wants them.
        fresh_interpreter: an interpreter that is started for it, instead of a warm one.
        check: raises :class:`RunFailedError` unless it succeeds.
        on_stdout, on_stderr, on_result: are called with output and values as they come.
        idempotency_key: a second run with the same key is the first one.
        client: the server to ask; none: the one of FUMEHOOD_URL, or a local one.

    Raises:
        FumehoodError: there is no outcome; ``retry`` says whether asking again can help.
    """
    return await (client or default_client()).run(
        code,
        language=language,
        env=env,
        cwd=cwd,
        stdin=stdin,
        timeout=timeout,
        memory_mib=memory_mib,
        packages=packages,
        refresh_packages=refresh_packages,
        network=network,
        display=display,
        fresh_interpreter=fresh_interpreter,
        check=check,
        on_stdout=on_stdout,
        on_stderr=on_stderr,
        on_result=on_result,
        idempotency_key=idempotency_key,
    )


def astream(code: str, *, client: Optional[AsyncClient] = None, **how: Any) -> AsyncRun:
    """Code in a fresh microVM of its own, as a run to iterate over for its events. Arguments are those of
    :func:`arun` without ``check``, and ``detach``: it goes on when nobody follows it."""
    return (client or default_client()).stream(code, **how)

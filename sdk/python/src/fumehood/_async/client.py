"""The client of a server."""

from __future__ import annotations

from typing import Any, Callable, List, Mapping, Optional, Sequence

import httpx

from fumehood._async.process import AsyncProcess
from fumehood._async.run import AsyncRun, Callbacks
from fumehood._async.transport import AsyncTransport
from fumehood._concurrency_async import shared_state
from fumehood._models import Checkpoint, Outcome, RunInfo, SandboxInfo, dataclass_from
from fumehood._network import NetworkLike
from fumehood._requests import StdinLike, Strings, UploadLike, code_body, path_segment, split_stdin
from fumehood._results import Result


class AsyncClient:
    """A client of a fumehood server.

    Args:
        base_url: URL of the server, or ``unix:///path/to/server.sock``. Default: FUMEHOOD_URL, or else this
            user's local server, which is started on first use and exits when idle.
        api_key: API key. Default: FUMEHOOD_API_KEY. A Unix socket needs none.
        transport: the HTTP transport to use, for tests.
    """

    def __init__(
        self,
        base_url: Optional[str] = None,
        api_key: Optional[str] = None,
        *,
        transport: Optional[httpx.AsyncBaseTransport] = None,
    ) -> None:
        self.transport = AsyncTransport(base_url, api_key, transport)
        """The connections to the server."""

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections. Sandboxes continue to run."""
        await self.transport.close()

    async def info(self) -> dict[str, Any]:
        """Returns the server's version, accelerator, isolation, image, languages, limits and capacity."""
        return await self.transport.json("GET", "/v1/info")

    def stream(
        self,
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
        detach: bool = False,
        on_stdout: Optional[Callable[[str], Any]] = None,
        on_stderr: Optional[Callable[[str], Any]] = None,
        on_result: Optional[Callable[[Result], Any]] = None,
        idempotency_key: Optional[str] = None,
    ) -> AsyncRun:
        """Returns a run of code in a fresh VM. It starts when you iterate over it or wait for its outcome.

        Takes the arguments of :func:`fumehood.run` without ``check``.

        Args:
            detach: the run continues while no client is attached; :meth:`attach` attaches to it again.
        """
        initial_stdin, deferred_stdin = split_stdin(stdin)
        body = code_body(
            code=code,
            language=language,
            args=args,
            env=env,
            cwd=cwd,
            timeout=timeout,
            stdin=initial_stdin,
            display=display if display is not None else on_result is not None,
            fresh_interpreter=fresh_interpreter,
            detach=detach,
            memory_mib=memory_mib,
            packages=packages,
            refresh_packages=refresh_packages,
            network=network,
            uploads=uploads,
            downloads=downloads,
        )

        callbacks = Callbacks(on_stdout, on_stderr, on_result)
        return AsyncRun(
            self.transport,
            _one_shot_path,
            body,
            deferred_stdin=deferred_stdin,
            callbacks=callbacks,
            key=idempotency_key,
        )

    async def run(self, code: str, *, check: bool = False, **how: Any) -> Outcome:
        """Runs code in a fresh VM and waits for it to end. Takes the arguments of :func:`fumehood.run`."""
        return await self.stream(code, **how).run_to_end(check)

    def attach(self, id: str) -> AsyncProcess:
        """Attaches to a run or process by its ID, and returns all of its events. Giving it up cancels the run unless
        it was started with ``detach=True``."""
        return AsyncProcess(self.transport, id=id)

    async def runs(
        self, *, state: Optional[str] = None, sandbox: Optional[str] = None, limit: Optional[int] = None
    ) -> List[RunInfo]:
        """Returns the runs of this API key, newest first."""
        params = {"state": state, "sandbox": sandbox}
        return [dataclass_from(RunInfo, run) for run in await self._list_all("/v1/runs", "runs", params, limit)]

    async def run_info(self, id: str) -> dict[str, Any]:
        """Returns a run as the API describes it, with its stored output."""
        return await self.transport.json("GET", f"/v1/runs/{path_segment(id)}")

    async def sandboxes(self, *, state: Optional[str] = None, limit: Optional[int] = None) -> List[SandboxInfo]:
        """Returns the sandboxes of this API key, newest first. ``state``: ``running``, ``paused``, ``ended``, or
        ``None`` for all."""
        sandboxes = await self._list_all("/v1/sandboxes", "sandboxes", {"state": state}, limit)
        return [dataclass_from(SandboxInfo, sandbox) for sandbox in sandboxes]

    async def checkpoints(self) -> List[Checkpoint]:
        """Returns the checkpoints of this API key, newest first."""
        answer = await self.transport.json("GET", "/v1/checkpoints")
        return [dataclass_from(Checkpoint, checkpoint) for checkpoint in answer.get("checkpoints", [])]

    async def delete_checkpoint(self, id: str) -> None:
        """Deletes a checkpoint, by its ID or name. Sandboxes that were created from it continue to run."""
        await self.transport.send("DELETE", f"/v1/checkpoints/{path_segment(id)}")

    async def _list_all(
        self, path: str, name: str, params: Mapping[str, Any], limit: Optional[int]
    ) -> List[Mapping[str, Any]]:
        """Returns all entries of a list, or the first ``limit``."""
        entries: List[Mapping[str, Any]] = []
        while limit is None or len(entries) < limit:
            query = {key: value for key, value in params.items() if value is not None}
            query["limit"] = min(_PAGE_SIZE, _PAGE_SIZE if limit is None else limit - len(entries))
            if entries:
                query["before"] = entries[-1]["id"]

            # A page that is not full is the last one.
            page = (await self.transport.json("GET", path, params=query)).get(name, [])
            entries.extend(page)
            if len(page) < query["limit"]:
                break
        return entries


async def _one_shot_path() -> str:
    """Returns the path that starts one-shot runs."""
    return "/v1/runs"


_PAGE_SIZE = 100
"""Maximum number of list entries per request."""


def default_client() -> AsyncClient:
    """Returns the shared client for FUMEHOOD_URL or the local server."""
    where = AsyncTransport().where
    clients: dict[Any, AsyncClient] = shared_state()
    if where not in clients:
        clients[where] = AsyncClient()
    return clients[where]

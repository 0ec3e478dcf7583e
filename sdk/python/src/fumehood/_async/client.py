"""The server, and what does not belong to one sandbox."""

from __future__ import annotations

from typing import Any, Callable, List, Mapping, Optional

import httpx

from fumehood._async.process import AsyncProcess
from fumehood._async.run import AsyncRun, Callbacks
from fumehood._async.transport import AsyncTransport
from fumehood._concurrency_async import shared_state
from fumehood._models import Checkpoint, Outcome, RunInfo, SandboxInfo, dataclass_from
from fumehood._network import NetworkLike
from fumehood._results import Result
from fumehood._requests import StdinLike, Strings, code_body, split_stdin


class AsyncClient:
    """A server of fumehood.

    Args:
        base_url: its URL, or ``unix:///path/of/a.sock``; none: that of FUMEHOOD_URL; without that a local server
            of this user is found at its socket, or started there on first use, and ends when idle.
        api_key: a key of the server; none: that of FUMEHOOD_API_KEY. A socket needs none.
        transport: how requests are sent, for tests.
    """

    def __init__(
        self,
        base_url: Optional[str] = None,
        api_key: Optional[str] = None,
        *,
        transport: Optional[httpx.AsyncBaseTransport] = None,
    ) -> None:
        self.transport = AsyncTransport(base_url, api_key, transport)
        """Its connections."""

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes its connections. Sandboxes go on."""
        await self.transport.close()

    async def info(self) -> dict[str, Any]:
        """The server: version, accelerator and why, isolation, image, languages, limits, room."""
        return await self.transport.json("GET", "/v1/info")

    def stream(
        self,
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
        detach: bool = False,
        on_stdout: Optional[Callable[[str], Any]] = None,
        on_stderr: Optional[Callable[[str], Any]] = None,
        on_result: Optional[Callable[[Result], Any]] = None,
        idempotency_key: Optional[str] = None,
    ) -> AsyncRun:
        """Code in a fresh VM of its own, begun when the run is iterated over for its events, or asked for its
        outcome. Arguments are as in :meth:`run`.

        Args:
            detach: it goes on when nobody follows it, and :meth:`attach` follows it again.
        """
        now, later = split_stdin(stdin)
        body = code_body(
            code=code,
            language=language,
            env=env,
            cwd=cwd,
            timeout=timeout,
            stdin=now,
            display=display if display is not None else on_result is not None,
            fresh_interpreter=fresh_interpreter,
            detach=detach,
            memory_mib=memory_mib,
            packages=packages,
            refresh_packages=refresh_packages,
            network=network,
        )
        callbacks = Callbacks(on_stdout, on_stderr, on_result)
        return AsyncRun(
            self.transport, _one_shot_path, body, deferred_stdin=later, callbacks=callbacks, key=idempotency_key
        )

    async def run(self, code: str, *, check: bool = False, **how: Any) -> Outcome:
        """Runs code in a fresh VM of its own, to its end. Arguments are those of :func:`fumehood.run`."""
        return await self.stream(code, **how).run_to_end(check)

    def attach(self, id: str) -> AsyncProcess:
        """Follows a run or a program from its beginning, by its id. It goes on when that is given up, if it was begun
        with ``detach=True``."""
        return AsyncProcess(self.transport, id=id)

    async def runs(
        self, *, state: Optional[str] = None, sandbox: Optional[str] = None, limit: Optional[int] = None
    ) -> List[RunInfo]:
        """This key's runs, the newest first."""
        params = {"state": state, "sandbox": sandbox}
        return [dataclass_from(RunInfo, told) for told in await self._list_all("/v1/runs", "runs", params, limit)]

    async def run_info(self, id: str) -> dict[str, Any]:
        """A run as the API tells it, with what is kept of its outputs."""
        return await self.transport.json("GET", f"/v1/runs/{id}")

    async def sandboxes(self, *, state: Optional[str] = None, limit: Optional[int] = None) -> List[SandboxInfo]:
        """This key's sandboxes, the newest first; ``state``: ``running``, ``ended``, or none for both."""
        pages = await self._list_all("/v1/sandboxes", "sandboxes", {"state": state}, limit)
        return [dataclass_from(SandboxInfo, told) for told in pages]

    async def checkpoints(self) -> List[Checkpoint]:
        """The saved states of sandboxes, of which the server keeps 16."""
        told = await self.transport.json("GET", "/v1/checkpoints")
        return [dataclass_from(Checkpoint, checkpoint) for checkpoint in told.get("checkpoints", [])]

    async def delete_checkpoint(self, id: str) -> None:
        """Forgets a saved state. Sandboxes that began from it go on."""
        await self.transport.send("DELETE", f"/v1/checkpoints/{id}")

    async def _list_all(
        self, path: str, name: str, params: Mapping[str, Any], limit: Optional[int]
    ) -> List[Mapping[str, Any]]:
        """All of a list, or its first ``limit``."""
        found: List[Mapping[str, Any]] = []
        while limit is None or len(found) < limit:
            asked = {key: value for key, value in params.items() if value is not None}
            asked["limit"] = min(_PAGE_SIZE, _PAGE_SIZE if limit is None else limit - len(found))
            if found:
                asked["before"] = found[-1]["id"]
            page = (await self.transport.json("GET", path, params=asked)).get(name, [])
            found.extend(page)
            if len(page) < asked["limit"]:
                break
        return found


async def _one_shot_path() -> str:
    """Where runs in VMs of their own are begun."""
    return "/v1/runs"


_PAGE_SIZE = 100
"""Entries of a list that are asked for at a time."""


def default_client() -> AsyncClient:
    """The client of all that name none: for the server of FUMEHOOD_URL, or a local one."""
    where = AsyncTransport().where
    held: dict[Any, AsyncClient] = shared_state()
    if where not in held:
        held[where] = AsyncClient()
    return held[where]

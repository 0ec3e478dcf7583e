"""Sandboxes: microVMs that continue between runs."""

from __future__ import annotations

from typing import Any, AsyncIterator, Callable, List, Mapping, Optional, Sequence, Union

from fumehood._async.client import AsyncClient, default_client
from fumehood._async.files import AsyncFiles
from fumehood._async.process import AsyncProcess
from fumehood._async.run import AsyncRun, Callbacks
from fumehood._concurrency_async import run_shielded, start_if_blocking
from fumehood._errors import FumehoodError, LostError
from fumehood._events import Event
from fumehood._languages import canonical_language
from fumehood._models import (
    Checkpoint,
    InstalledPackage,
    Outcome,
    ProcessInfo,
    SandboxInfo,
    dataclass_from,
)
from fumehood._network import NetworkLike
from fumehood._requests import (
    StdinLike,
    Strings,
    code_body,
    path_segment,
    process_body,
    sandbox_body,
    without_none,
    split_stdin,
    whole_seconds,
    to_string_list,
)
from fumehood._results import Result
from fumehood._settings import CLEANUP_TIMEOUT_S, CREATE_TIMEOUT_S, PACKAGES_TIMEOUT_S, new_key

_DEFAULT_CONTEXT = "main"
"""The context of code that names none."""

_DEFAULT_LANGUAGE = "python"
"""The language of a sandbox that was started for none."""


class AsyncSandbox:
    """A microVM that keeps files, programs and interpreters between runs.

    ``async with AsyncSandbox() as sandbox:`` ends it at the end of the block. Otherwise it ends with a call of
    :meth:`kill`. A sandbox that is idle for ``idle_timeout`` is paused: its state is on the server's disk, and the next
    call resumes it, also after a restart of the server.

    Args:
        language: default language for :meth:`run`: ``python`` (``py``), ``javascript`` (``js``), ``typescript``
            (``ts``) or ``shell`` (``bash``, ``sh``). Default: ``python``, or that of the checkpoint.
        memory_mib: memory in MiB; the server's default is 512.
        idle_timeout: seconds without work after which the sandbox is paused, or ends.
        on_idle: ``pause`` or ``end``; the server's default is ``pause``.
        max_lifetime: seconds after which the sandbox ends in any case; the server's default is one day.
        lifetime_counts: which time counts for ``max_lifetime``: ``running`` (the default) or ``always``.
        checkpoint_every: seconds between the server's own saves of the running sandbox, from which it continues if the
            server is killed; by default it is not saved.
        network: destinations that the sandbox may reach (a :class:`Network`, or a list of rules); by default it
            has no network device.
        packages: packages of ``language``, each with an optional version specifier, installed before the sandbox
            starts.
        refresh_packages: resolves the packages again instead of using the versions of earlier runs.
        checkpoint: the checkpoint to restore, or its ID or name; only timeouts, a name and, if it is durable, a
            network may be given with it.
        name: a name that may be used in place of the ID, unique among the sandboxes that have not ended.
        env: environment variables for all code and programs; those of a run take precedence.
        client: the client to use; by default one for FUMEHOOD_URL or a local server.
    """

    def __init__(
        self,
        language: Optional[str] = None,
        *,
        memory_mib: Optional[int] = None,
        idle_timeout: Optional[float] = 300,
        max_lifetime: Optional[float] = None,
        network: NetworkLike = None,
        packages: Optional[Strings] = None,
        refresh_packages: bool = False,
        checkpoint: Union[str, Checkpoint, None] = None,
        name: Optional[str] = None,
        env: Optional[Mapping[str, str]] = None,
        on_idle: Optional[str] = None,
        lifetime_counts: Optional[str] = None,
        checkpoint_every: Optional[float] = None,
        client: Optional[AsyncClient] = None,
    ) -> None:
        body = sandbox_body(
            language=canonical_language(language or _DEFAULT_LANGUAGE),
            memory_mib=memory_mib,
            idle_timeout=idle_timeout,
            max_lifetime=max_lifetime,
            network=network,
            packages=packages,
            refresh_packages=refresh_packages,
            checkpoint=checkpoint,
            name=name,
            on_idle=on_idle,
            lifetime_counts=lifetime_counts,
            checkpoint_every=checkpoint_every,
        )
        self._init_fields(client or default_client(), language, env, body)
        start_if_blocking(self.start)

    def _init_fields(
        self,
        client: AsyncClient,
        language: Optional[str],
        env: Optional[Mapping[str, str]],
        body: Optional[dict[str, Any]] = None,
    ) -> None:
        self._language = canonical_language(language) if language else None
        self._client, self._transport = client, client.transport
        self._env, self._body = dict(env or {}), body
        # All attempts to start the sandbox have one key, so that a retry does not start a second one.
        self._key = new_key()
        self._info: Optional[SandboxInfo] = None
        self.files = AsyncFiles(self._transport, lambda: self._path)
        """The files of the sandbox."""

    @classmethod
    async def get(
        cls, id: str, *, language: Optional[str] = None, client: Optional[AsyncClient] = None
    ) -> AsyncSandbox:
        """Returns the sandbox with this ID.

        Args:
            language: default language for :meth:`run`; by default that of the sandbox.

        Raises:
            NotFoundError: there is no such sandbox, or it belongs to another API key.
        """
        client = client or default_client()
        info = dataclass_from(SandboxInfo, await client.transport.json("GET", f"/v1/sandboxes/{path_segment(id)}"))
        return cls._from_info(client, info, language)

    @classmethod
    async def connect(
        cls, id_or_name: str, *, language: Optional[str] = None, client: Optional[AsyncClient] = None
    ) -> AsyncSandbox:
        """Returns the sandbox with this ID or name that has not ended. A paused one is resumed by its next use.

        Args:
            language: default language for :meth:`run`; by default that of the sandbox.

        Raises:
            NotFoundError: there is no such sandbox, or it belongs to another API key.
            LostError: it has ended.
        """
        sandbox = await cls.get(id_or_name, language=language, client=client)
        info = sandbox._info
        if info and info.state == "ended":
            error = LostError(f"the sandbox has ended: {info.ended_why}", retry="never")
            error.ended = info.ended
            raise error
        return sandbox

    @classmethod
    async def list(
        cls, *, state: Optional[str] = "running", limit: Optional[int] = None, client: Optional[AsyncClient] = None
    ) -> List[SandboxInfo]:
        """Returns the sandboxes of this API key, newest first. ``state``: ``running``, ``paused``, ``ended``, or
        ``None`` for all."""
        return await (client or default_client()).sandboxes(state=state, limit=limit)

    @classmethod
    def _from_info(
        cls,
        client: AsyncClient,
        info: SandboxInfo,
        language: Optional[str],
        env: Optional[Mapping[str, str]] = None,
    ) -> AsyncSandbox:
        sandbox = cls.__new__(cls)
        sandbox._init_fields(client, language, env)
        sandbox._info = info
        return sandbox

    async def __aenter__(self) -> AsyncSandbox:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await run_shielded(self._end, 2 * CLEANUP_TIMEOUT_S)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._info.id if self._info else 'not started'}>"

    async def start(self) -> None:
        """Starts the sandbox unless it is running. ``async with`` and the first use do so automatically."""
        if self._info is None:
            read_s = CREATE_TIMEOUT_S + (PACKAGES_TIMEOUT_S if self._body and "packages" in self._body else 0)
            answer = await self._transport.json(
                "POST", "/v1/sandboxes", json=self._body or {}, read_s=read_s, key=self._key
            )
            self._info = dataclass_from(SandboxInfo, answer)

    @property
    def language(self) -> str:
        """Default language for :meth:`run`. That of a checkpoint is known once the sandbox has been started."""
        return self._language or self._main_language

    @property
    def _main_language(self) -> str:
        """The language of the default context: all handles of a sandbox must agree on it."""
        started_for = self._info.language if self._info else None
        return started_for or self._language or _DEFAULT_LANGUAGE

    @property
    def id(self) -> str:
        """The ID of the sandbox."""
        if self._info is None:
            raise FumehoodError(
                "the sandbox has not been started; use `async with`, or await its start()",
                kind="invalid",
                retry="never",
            )
        return self._info.id

    @property
    def _path(self) -> str:
        return f"/v1/sandboxes/{path_segment(self.id)}"

    async def _started_path(self, rest: str) -> str:
        await self.start()
        return self._path + rest

    async def info(self) -> SandboxInfo:
        """Returns the current state of the sandbox."""
        await self.start()
        self._info = dataclass_from(SandboxInfo, await self._transport.json("GET", self._path))
        return self._info

    def stream(
        self,
        code: str,
        *,
        language: Optional[str] = None,
        args: Optional[Sequence[str]] = None,
        context: Optional[str] = _DEFAULT_CONTEXT,
        env: Optional[Mapping[str, str]] = None,
        cwd: Optional[str] = None,
        stdin: StdinLike = None,
        timeout: Optional[float] = None,
        display: bool = True,
        fresh_interpreter: bool = False,
        detach: bool = False,
        on_stdout: Optional[Callable[[str], Any]] = None,
        on_stderr: Optional[Callable[[str], Any]] = None,
        on_result: Optional[Callable[[Result], Any]] = None,
        idempotency_key: Optional[str] = None,
    ) -> AsyncRun:
        """Returns a run of code; iterate over it for its events. Takes the arguments of :meth:`run` without ``check``.

        Args:
            detach: the run continues while no client is attached; ``Client.attach(run.id)`` attaches to it again.
        """
        initial_stdin, deferred_stdin = split_stdin(stdin)
        body = code_body(
            code=code,
            args=args,
            env={**self._env, **(env or {})},
            cwd=cwd,
            timeout=timeout,
            stdin=initial_stdin,
            display=display,
            fresh_interpreter=fresh_interpreter,
            detach=detach,
        )

        async def start_path() -> str:
            # The language of a checkpoint is known only now.
            path = await self._started_path("/runs")
            body.update(self._language_fields(language, context))
            return path

        return AsyncRun(
            self._transport,
            start_path,
            body,
            deferred_stdin=deferred_stdin,
            callbacks=Callbacks(on_stdout, on_stderr, on_result),
            key=idempotency_key,
        )

    def _language_fields(self, language: Optional[str], context: Optional[str]) -> dict[str, str]:
        language = canonical_language(language) if language else self.language
        if context == _DEFAULT_CONTEXT and language != self._main_language:
            # A context has one language.
            context = f"{_DEFAULT_CONTEXT}-{language}"
        return without_none(language=language, context=context)

    async def run(
        self,
        code: str,
        *,
        language: Optional[str] = None,
        args: Optional[Sequence[str]] = None,
        context: Optional[str] = _DEFAULT_CONTEXT,
        env: Optional[Mapping[str, str]] = None,
        cwd: Optional[str] = None,
        stdin: StdinLike = None,
        timeout: Optional[float] = None,
        display: bool = True,
        fresh_interpreter: bool = False,
        check: bool = False,
        on_stdout: Optional[Callable[[str], Any]] = None,
        on_stderr: Optional[Callable[[str], Any]] = None,
        on_result: Optional[Callable[[Result], Any]] = None,
        idempotency_key: Optional[str] = None,
    ) -> Outcome:
        """Runs code and waits for it to end.

        Args:
            code: the program.
            language: language of the code; default: that of the sandbox.
            args: arguments of the program. In a context they replace those of earlier runs; without any, those stay.
            context: name of an interpreter that keeps its state between runs; ``None`` starts one for this run only.
            env: environment variables in addition to those of the sandbox.
            cwd: working directory.
            stdin: standard input, as text or bytes.
            timeout: timeout in seconds; the server's default is 30.
            display: reports displayed values, as in a notebook: that of the last expression, plots, tables.
            fresh_interpreter: starts a new interpreter, without a context.
            check: raises :class:`RunFailedError` unless the code succeeds.
            on_stdout, on_stderr, on_result: callbacks for output and values as they arrive.
            idempotency_key: repeating a call with the same key returns the original run.
        """
        run = self.stream(
            code,
            language=language,
            args=args,
            context=context,
            env=env,
            cwd=cwd,
            stdin=stdin,
            timeout=timeout,
            display=display,
            fresh_interpreter=fresh_interpreter,
            on_stdout=on_stdout,
            on_stderr=on_stderr,
            on_result=on_result,
            idempotency_key=idempotency_key,
        )
        return await run.run_to_end(check)

    async def spawn(
        self,
        argv: Sequence[str],
        *,
        env: Optional[Mapping[str, str]] = None,
        cwd: Optional[str] = None,
        stdin: StdinLike = True,
        timeout: Optional[float] = None,
        pty: Optional[tuple[int, int]] = None,
        tag: Optional[str] = None,
        detach: bool = False,
        on_stdout: Optional[Callable[[str], Any]] = None,
        on_stderr: Optional[Callable[[str], Any]] = None,
        idempotency_key: Optional[str] = None,
    ) -> AsyncProcess:
        """Starts a program. Returns when it has started.

        Args:
            argv: program and arguments; the program is searched in PATH.
            stdin: standard input: text or bytes, ``True`` to write it later, or ``None`` for none.
            timeout: seconds after which the program is ended; by default it has no timeout.
            pty: size of a terminal for the program, as (rows, columns).
            tag: label of the program in :meth:`processes`.
            detach: the program continues while no client is attached; ``Client.attach(process.id)`` attaches to
                it again.
        """
        initial_stdin, deferred_stdin = split_stdin(stdin)
        body = process_body(
            argv=argv,
            env={**self._env, **(env or {})},
            cwd=cwd,
            timeout=timeout,
            stdin=initial_stdin,
            pty=pty,
            tag=tag,
            detach=detach,
        )

        process = AsyncProcess(
            self._transport,
            lambda: self._started_path("/processes"),
            body,
            deferred_stdin=deferred_stdin,
            callbacks=Callbacks(on_stdout, on_stderr),
            key=idempotency_key,
        )

        # A program that cannot be started raises here, and not at its first use.
        try:
            await process.started()
        except BaseException:
            await run_shielded(process.close, CLEANUP_TIMEOUT_S)
            raise
        return process

    async def processes(self) -> List[ProcessInfo]:
        """Returns the running programs."""
        await self.start()
        answer = await self._transport.json("GET", f"{self._path}/processes")
        return [dataclass_from(ProcessInfo, process) for process in answer.get("processes", [])]

    async def install(self, *packages: str, language: Optional[str] = None) -> List[InstalledPackage]:
        """Installs packages, each with an optional version specifier, into the running sandbox. Its network must
        allow the package index. Prefer ``packages=`` of a new sandbox, which needs no network."""
        await self.start()
        body = {"language": canonical_language(language or self.language), "packages": to_string_list("packages", packages)}
        answer = await self._transport.json("POST", f"{self._path}/packages", json=body, read_s=PACKAGES_TIMEOUT_S)
        return [dataclass_from(InstalledPackage, package) for package in answer.get("installed", [])]

    async def close_context(self, name: str) -> None:
        """Ends the interpreter of a context. The next run in the context starts a new one."""
        await self.start()
        await self._transport.send("DELETE", f"{self._path}/contexts/{path_segment(name)}")

    async def fork(self, count: int = 1) -> List[AsyncSandbox]:
        """Returns ``count`` new sandboxes with copies of the memory, files, contexts and programs of this one."""
        await self.start()
        answer = await self._transport.json(
            "POST", f"{self._path}/fork", json={"count": count}, read_s=CREATE_TIMEOUT_S
        )
        infos = [dataclass_from(SandboxInfo, info) for info in answer.get("sandboxes", [])]
        return [self._from_info(self._client, info, self._language, self._env) for info in infos]

    async def checkpoint(self, *, name: Optional[str] = None, durable: Optional[bool] = None) -> Checkpoint:
        """Saves the state. ``AsyncSandbox(checkpoint=...)`` restores it.

        Args:
            name: a name that may be used in place of the ID.
            durable: writes the checkpoint to disk, where it survives the server. By default one with a name is durable;
                of others the server stores at most 16, in memory.
        """
        await self.start()
        body = without_none(name=name, durable=durable)
        answer = await self._transport.json(
            "POST", f"{self._path}/checkpoints", json=body, read_s=CREATE_TIMEOUT_S
        )
        return dataclass_from(Checkpoint, answer)

    async def pause(self) -> SandboxInfo:
        """Pauses the sandbox: its state is on the server's disk when this returns, and it takes no memory. The next call
        that needs it resumes it."""
        await self.start()
        answer = await self._transport.json("POST", f"{self._path}/pause", read_s=CREATE_TIMEOUT_S)
        self._info = dataclass_from(SandboxInfo, answer)
        return self._info

    async def resume(self, *, secrets: Optional[Mapping[str, str]] = None) -> SandboxInfo:
        """Resumes a paused sandbox, as every call that needs it does.

        Args:
            secrets: values of the network's secrets. The server keeps them only in memory, so they must be given again
                after it was restarted.
        """
        await self.start()
        body = {"secrets": dict(secrets)} if secrets else {}
        answer = await self._transport.json("POST", f"{self._path}/resume", json=body, read_s=CREATE_TIMEOUT_S)
        self._info = dataclass_from(SandboxInfo, answer)
        return self._info

    async def expose(self, port: int, *, host_port: int = 0) -> str:
        """Exposes a port of the sandbox on the loopback interface of the server's machine. The sandbox must have a
        network.

        Args:
            port: port of the sandbox.
            host_port: port of the server's machine; 0 selects a free one.

        Returns:
            The URL of the port.
        """
        await self.start()
        body = {"guest": port, "host": host_port}
        return str((await self._transport.json("POST", f"{self._path}/ports", json=body))["url"])

    async def extend(
        self,
        *,
        idle_timeout: Optional[float] = None,
        max_lifetime: Optional[float] = None,
        on_idle: Optional[str] = None,
        lifetime_counts: Optional[str] = None,
    ) -> SandboxInfo:
        """Changes the timeouts, in seconds, and what they mean. ``max_lifetime`` counts from the creation of the
        sandbox. A paused sandbox stays paused."""
        await self.start()
        body = without_none(
            idle_timeout_s=whole_seconds("idle_timeout", idle_timeout),
            max_lifetime_s=whole_seconds("max_lifetime", max_lifetime),
            on_idle=on_idle,
            lifetime_counts=lifetime_counts,
        )
        self._info = dataclass_from(SandboxInfo, await self._transport.json("PATCH", self._path, json=body))
        return self._info

    async def events(self) -> AsyncIterator[Event]:
        """Yields network decisions and the start and end of runs, until the sandbox ends."""
        await self.start()
        async for event in AsyncRun(self._transport, id=self.id, events_at=f"{self._path}/events"):
            yield event

    async def kill(self) -> SandboxInfo:
        """Ends the sandbox and everything in it. Repeating the call has no further effect."""
        await self.start()
        self._info = dataclass_from(SandboxInfo, await self._transport.json("DELETE", self._path))
        return self._info

    async def _end(self) -> None:
        if self._info is not None:
            try:
                await self._transport.json("DELETE", self._path, read_s=2 * CLEANUP_TIMEOUT_S)
            except FumehoodError:
                # The sandbox is paused or ends when idle.
                pass

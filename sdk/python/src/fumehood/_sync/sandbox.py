# Made by tools/make_sync.py from _async/sandbox.py; not to be changed by hand.
"""A microVM that lives on between runs."""

from __future__ import annotations

from typing import Any, Iterator, Callable, List, Mapping, Optional, Sequence, Union

from fumehood._sync.client import Client, default_client
from fumehood._sync.files import Files
from fumehood._sync.process import Process
from fumehood._sync.run import Run, Callbacks
from fumehood._errors import FumehoodError
from fumehood._events import Event
from fumehood._concurrency_sync import start_if_blocking, run_shielded
from fumehood._models import (
    Checkpoint,
    InstalledPackage,
    Outcome,
    ProcessInfo,
    SandboxInfo,
    dataclass_from,
)
from fumehood._network import NetworkLike
from fumehood._results import Result
from fumehood._settings import CLEANUP_TIMEOUT_S, CREATE_TIMEOUT_S, PACKAGES_TIMEOUT_S, new_key
from fumehood._requests import (
    StdinLike,
    Strings,
    code_body,
    process_body,
    sandbox_body,
    without_none,
    split_stdin,
    whole_seconds,
    to_string_list,
)

_DEFAULT_CONTEXT = "main"
"""The context in which code runs unless it says otherwise."""


class Sandbox:
    """A microVM of its own, which keeps files, programs and interpreters between runs.

    ``with Sandbox() as sandbox:`` ends it at the block's end. Without that, it ends by
    ``sandbox.kill()``, or when nothing has gone on in it for ``idle_timeout``.

    Args:
        language: ``python``, ``javascript`` or ``shell``: that of code that does not say another.
        memory_mib: its memory in MiB; the server's default is 512.
        idle_timeout: seconds without work after which it is ended.
        max_lifetime: seconds after which it is ended in any case; the server's default is a day.
        network: what it may reach (:class:`Network`, or a list of rules in words); none: no network device.
        packages: packages of ``language``, each with a version specifier, installed before it begins.
        refresh_packages: resolves them again, whatever versions they came to before.
        checkpoint: begins from this saved state; then nothing else but times may be given.
        name: for people.
        env: variables of all that runs in it, unless a run says otherwise.
        client: the server to ask; none: the one of FUMEHOOD_URL, or a local one.
    """

    def __init__(
        self,
        language: str = "python",
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
        client: Optional[Client] = None,
    ) -> None:
        body = sandbox_body(
            language=language,
            memory_mib=memory_mib,
            idle_timeout=idle_timeout,
            max_lifetime=max_lifetime,
            network=network,
            packages=packages,
            refresh_packages=refresh_packages,
            checkpoint=checkpoint,
            name=name,
        )
        self._init_fields(client or default_client(), language, env, body)
        start_if_blocking(self.start)

    def _init_fields(
        self,
        client: Client,
        language: str,
        env: Optional[Mapping[str, str]],
        body: Optional[dict[str, Any]] = None,
    ) -> None:
        self.language = language
        """The language of code that does not say another."""
        self._client, self._transport = client, client.transport
        self._env, self._body = dict(env or {}), body
        # The same for each try: one that is begun twice is one.
        self._key = new_key()
        self._info: Optional[SandboxInfo] = None
        self.files = Files(self._transport, lambda: self._path)
        """Its files."""

    @classmethod
    def get(cls, id: str, *, language: str = "python", client: Optional[Client] = None) -> Sandbox:
        """The sandbox that has this id.

        Raises:
            NotFoundError: there is none, or it belongs to another key.
        """
        client = client or default_client()
        return cls._from_info(client, dataclass_from(SandboxInfo, client.transport.json("GET", f"/v1/sandboxes/{id}")), language)

    @classmethod
    def list(
        cls, *, state: Optional[str] = "running", limit: Optional[int] = None, client: Optional[Client] = None
    ) -> List[SandboxInfo]:
        """This key's sandboxes, the newest first; ``state``: ``running``, ``ended``, or ``None`` for both."""
        return (client or default_client()).sandboxes(state=state, limit=limit)

    @classmethod
    def _from_info(
        cls,
        client: Client,
        info: SandboxInfo,
        language: str,
        env: Optional[Mapping[str, str]] = None,
    ) -> Sandbox:
        sandbox = cls.__new__(cls)
        sandbox._init_fields(client, info.language or language, env)
        sandbox._info = info
        return sandbox

    def __enter__(self) -> Sandbox:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        run_shielded(self._end, 2 * CLEANUP_TIMEOUT_S)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._info.id if self._info else 'not started'}>"

    def start(self) -> None:
        """Begins it, unless it has begun. ``with`` and the first use do it by themselves."""
        if self._info is None:
            read_s = CREATE_TIMEOUT_S + (PACKAGES_TIMEOUT_S if self._body and "packages" in self._body else 0)
            told = self._transport.json(
                "POST", "/v1/sandboxes", json=self._body or {}, read_s=read_s, key=self._key
            )
            self._info = dataclass_from(SandboxInfo, told)

    @property
    def id(self) -> str:
        """Its id at the server."""
        if self._info is None:
            raise FumehoodError(
                "the sandbox has not begun; use it in `with`, or call its start()", kind="invalid", retry="never"
            )
        return self._info.id

    @property
    def _path(self) -> str:
        return f"/v1/sandboxes/{self.id}"

    def _start_path(self, rest: str) -> str:
        self.start()
        return self._path + rest

    def info(self) -> SandboxInfo:
        """What the server knows of it now."""
        self.start()
        self._info = dataclass_from(SandboxInfo, self._transport.json("GET", self._path))
        return self._info

    def stream(
        self,
        code: str,
        *,
        language: Optional[str] = None,
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
    ) -> Run:
        """Begins code; the run is iterated over for its events. Arguments are as in :meth:`run`.

        Args:
            detach: it goes on when nobody follows it, and ``Client.attach(run.id)`` follows it again.
        """
        language = language or self.language
        if context == _DEFAULT_CONTEXT and language != self.language:
            # A context is of one language.
            context = f"{_DEFAULT_CONTEXT}-{language}"
        now, later = split_stdin(stdin)
        body = code_body(
            code=code,
            language=language,
            env={**self._env, **(env or {})},
            cwd=cwd,
            timeout=timeout,
            stdin=now,
            display=display,
            fresh_interpreter=fresh_interpreter,
            detach=detach,
            context=context,
        )
        return Run(
            self._transport,
            lambda: self._start_path("/runs"),
            body,
            deferred_stdin=later,
            callbacks=Callbacks(on_stdout, on_stderr, on_result),
            key=idempotency_key,
        )

    def run(
        self,
        code: str,
        *,
        language: Optional[str] = None,
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
        """Runs code to its end.

        Args:
            context: an interpreter that keeps its state between runs, by its name; ``None``: one for this run alone.
            env: variables, beside those of the sandbox.
            cwd: the directory in which it runs.
            stdin: its input.
            timeout: seconds that it may take; the server's default is 30.
            display: values are shown as in a notebook: the last expression's, plots, tables.
            fresh_interpreter: an interpreter that is started for it, without a context.
            check: raises :class:`RunFailedError` unless it succeeds.
            on_stdout, on_stderr, on_result: are called with output and values as they come.
            idempotency_key: a second run with the same key is the first one.
        """
        run = self.stream(
            code,
            language=language,
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
        return run.run_to_end(check)

    def spawn(
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
    ) -> Process:
        """Starts a program, and returns once it has started.

        Args:
            argv: its words; the first is looked for in PATH.
            stdin: its input: ``True`` to write it later, all of it, or ``None`` for none.
            timeout: seconds after which it is ended; none: it may run on.
            pty: the size of a terminal for it, as (rows, columns).
            tag: a word by which :meth:`processes` tells it.
            detach: it goes on when nobody follows it; ``Client.attach(process.id)`` follows it again.
        """
        now, later = split_stdin(stdin)
        body = process_body(
            argv=argv,
            env={**self._env, **(env or {})},
            cwd=cwd,
            timeout=timeout,
            stdin=now,
            pty=pty,
            tag=tag,
            detach=detach,
        )
        process = Process(
            self._transport,
            lambda: self._start_path("/processes"),
            body,
            deferred_stdin=later,
            callbacks=Callbacks(on_stdout, on_stderr),
            key=idempotency_key,
        )
        try:
            process.started()
        except BaseException:
            run_shielded(process.close, CLEANUP_TIMEOUT_S)
            raise
        return process

    def processes(self) -> List[ProcessInfo]:
        """The programs that run in it."""
        self.start()
        told = self._transport.json("GET", f"{self._path}/processes")
        return [dataclass_from(ProcessInfo, process) for process in told.get("processes", [])]

    def install(self, *packages: str, language: Optional[str] = None) -> List[InstalledPackage]:
        """Installs packages, each with a version specifier, into the running sandbox. Its network must let it reach
        the index that its own tools are configured for. ``packages=`` of a new sandbox need no network."""
        self.start()
        body = {"language": language or self.language, "packages": to_string_list("packages", packages)}
        told = self._transport.json("POST", f"{self._path}/packages", json=body, read_s=PACKAGES_TIMEOUT_S)
        return [dataclass_from(InstalledPackage, package) for package in told.get("installed", [])]

    def close_context(self, name: str) -> None:
        """Ends a context's interpreter; the next run there begins a new one."""
        self.start()
        self._transport.send("DELETE", f"{self._path}/contexts/{name}")

    def fork(self, count: int = 1) -> List[Sandbox]:
        """Sandboxes with the same memory, files, contexts and programs, each going its own way from here."""
        self.start()
        told = self._transport.json("POST", f"{self._path}/fork", json={"count": count}, read_s=CREATE_TIMEOUT_S)
        infos = [dataclass_from(SandboxInfo, info) for info in told.get("sandboxes", [])]
        return [self._from_info(self._client, info, self.language, self._env) for info in infos]

    def checkpoint(self) -> Checkpoint:
        """Saves its state; ``Sandbox(checkpoint=...)`` begins from it. The server's memory holds 16 of them."""
        self.start()
        return dataclass_from(Checkpoint, self._transport.json("POST", f"{self._path}/checkpoints", read_s=CREATE_TIMEOUT_S))

    def expose(self, port: int, *, host_port: int = 0) -> str:
        """The URL at which the server's machine reaches this port of it. It must have a network.

        Args:
            host_port: the port at the server's machine; 0: a free one.
        """
        self.start()
        body = {"guest": port, "host": host_port}
        return str((self._transport.json("POST", f"{self._path}/ports", json=body))["url"])

    def extend(
        self, *, idle_timeout: Optional[float] = None, max_lifetime: Optional[float] = None
    ) -> SandboxInfo:
        """Gives it other times, in seconds: how long it may idle, and live from its beginning."""
        self.start()
        body = without_none(
            idle_timeout_s=whole_seconds("idle_timeout", idle_timeout),
            max_lifetime_s=whole_seconds("max_lifetime", max_lifetime),
        )
        self._info = dataclass_from(SandboxInfo, self._transport.json("PATCH", self._path, json=body))
        return self._info

    def events(self) -> Iterator[Event]:
        """What its network decides, and the runs that begin and end in it, until it ends."""
        self.start()
        for event in Run(self._transport, id=self.id, events_at=f"{self._path}/events"):
            yield event

    def kill(self) -> SandboxInfo:
        """Ends it, with all that runs in it. It may be called again."""
        self.start()
        self._info = dataclass_from(SandboxInfo, self._transport.json("DELETE", self._path))
        return self._info

    def _end(self) -> None:
        if self._info is not None:
            try:
                self._transport.json("DELETE", self._path, read_s=2 * CLEANUP_TIMEOUT_S)
            except FumehoodError:
                # It ends by itself, when idle.
                pass

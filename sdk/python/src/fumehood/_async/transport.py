"""Requests to the server, repeated where that is safe."""

from __future__ import annotations

from typing import Any, AsyncIterator, Callable, Mapping, Optional, Union

import httpx

from fumehood import _local_server
from fumehood._errors import DeadlineError, DrainingError, LostError, ProtocolError, ServerError, error_from
from fumehood._concurrency_async import run_in_thread, sleep
from fumehood._settings import CONNECT_TIMEOUT_S, REQUEST_TIMEOUT_S, RETRY_PAUSES_S, address_from, key_from, new_key

Content = Union[bytes, Callable[[], AsyncIterator[bytes]], None]
"""A body: bytes, or what gives it anew for each try."""

_UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)

_READS = ("GET", "HEAD")
"""What never acts."""


class AsyncTransport:
    """Connections to one server. A local one is found or started before the first request."""

    def __init__(
        self,
        base_url: Optional[str] = None,
        api_key: Optional[str] = None,
        transport: Optional[httpx.AsyncBaseTransport] = None,
    ) -> None:
        self._address = address_from(base_url)
        self._api_key = key_from(api_key)
        self._custom_transport = transport
        self._http: Optional[httpx.AsyncClient] = None
        self._is_located = False

    @property
    def where(self) -> tuple[object, ...]:
        """What two transports to the same server have in common."""
        return (self._address, self._api_key, _local_server.socket_path() if self._address.own else None)

    async def close(self) -> None:
        """Closes all connections; a later request opens new ones."""
        http, self._http, self._is_located = self._http, None, False
        if http is not None:
            await http.aclose()

    async def json(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        params: Optional[Mapping[str, Any]] = None,
        read_s: float = REQUEST_TIMEOUT_S,
        key: Optional[str] = None,
    ) -> dict[str, Any]:
        """An answer's object; an empty one where there is no content.

        Raises:
            FumehoodError: the server's, or that it was not reached.
        """
        response = await self.send(method, path, json=json, params=params, read_s=read_s, key=key)
        if not response.content:
            return {}
        try:
            told = response.json()
        except ValueError as error:
            raise ProtocolError(f"the server's answer to {method} {path} is no JSON: {error}") from error
        if not isinstance(told, dict):
            raise ProtocolError(f"the server's answer to {method} {path} is no object")
        return told

    async def send(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        content: Content = None,
        params: Optional[Mapping[str, Any]] = None,
        headers: Optional[Mapping[str, str]] = None,
        read_s: float = REQUEST_TIMEOUT_S,
        key: Optional[str] = None,
        stream: bool = False,
        is_replayable: bool = True,
        may_start_server: bool = True,
    ) -> httpx.Response:
        """A good answer, read to its end unless it is to be streamed.

        What acts carries an idempotency key, so that a further try after a broken connection never acts twice.

        Args:
            read_s: seconds without a byte after which the answer is given up.
            is_replayable: the body can be sent again.
            may_start_server: a local server may be started for it.
        """
        sent = self._headers(method, headers, key)
        pauses, reached = iter(RETRY_PAUSES_S), False
        while True:
            failure: Exception
            try:
                # A new server knows nothing of what the old one may have begun.
                http = await self._ready(may_start_server and not (reached and method not in _READS))
                request = http.build_request(
                    method,
                    path,
                    json=json,
                    content=content() if callable(content) else content,
                    params=params,
                    headers=sent,
                    timeout=httpx.Timeout(read_s, connect=CONNECT_TIMEOUT_S, write=REQUEST_TIMEOUT_S, pool=REQUEST_TIMEOUT_S),
                )
                response = await http.send(request, stream=True)
                if response.is_error or not stream:
                    await response.aread()
                if not response.is_error:
                    return response
                failure = _error_from_response(response, sent["X-Request-Id"])
                if not (isinstance(failure, DrainingError) and self._address.own):
                    raise failure
                self._is_located = False
            except _UNSENT as error:
                failure, self._is_located = error, False
            except (httpx.ReadTimeout, httpx.WriteTimeout) as error:
                raise DeadlineError(
                    f"{method} {path}: the server did not go on within {read_s:g} s",
                    retry="safe" if method in _READS else "unknown",
                    request_id=sent["X-Request-Id"],
                ) from error
            except httpx.TransportError as error:
                failure, reached, self._is_located = error, True, False
            pause = next(pauses, None)
            if pause is None or (reached and not is_replayable):
                raise self._connection_error(method, path, failure, reached) from failure
            await sleep(pause)

    def _headers(self, method: str, headers: Optional[Mapping[str, str]], key: Optional[str]) -> dict[str, str]:
        sent = {"X-Request-Id": new_key(), "Accept": "application/json", **(headers or {})}
        if self._api_key:
            sent["Authorization"] = f"Bearer {self._api_key}"
        if method not in _READS:
            sent["Idempotency-Key"] = key or new_key()
        return sent

    async def _ready(self, may_start_server: bool) -> httpx.AsyncClient:
        socket = self._address.socket
        if self._address.own and self._custom_transport is None:
            socket = _local_server.socket_path()
            if may_start_server and not self._is_located:
                await run_in_thread(_local_server.ensure_running, socket)
        self._is_located = True
        if self._http is None:
            # Each run that is followed has a connection of its own: their number is the caller's.
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=20, keepalive_expiry=30)
            over = self._custom_transport or httpx.AsyncHTTPTransport(uds=str(socket) if socket else None, limits=limits)
            self._http = httpx.AsyncClient(transport=over, base_url=self._address.url, trust_env=False)
        return self._http

    def _connection_error(self, method: str, path: str, failure: Exception, reached: bool) -> Exception:
        if isinstance(failure, DrainingError):
            return failure
        what = f"{method} {path}: the server at {self._address_text()}"
        if not reached:
            return ServerError(f"{what} was not reached: {failure}; is it running?", retry="safe")
        if method in _READS:
            return ServerError(f"{what} went away: {failure!r}", retry="safe")
        return LostError(f"{what} went away before it answered: {failure!r}; it may have acted", retry="unknown")

    def _address_text(self) -> str:
        if self._address.own:
            return str(_local_server.socket_path())
        return str(self._address.socket or self._address.url)


def _error_from_response(response: httpx.Response, request_id: str) -> Exception:
    try:
        body = response.json()
    except ValueError:
        body = None
    return error_from(
        body,
        status=response.status_code,
        request_id=response.headers.get("X-Request-Id") or request_id,
        retry_after=response.headers.get("Retry-After"),
    )

"""HTTP requests, retried where that is safe."""

from __future__ import annotations

from pathlib import Path
from typing import Any, AsyncIterator, Callable, Mapping, Optional, Union

import httpx

from fumehood import _local_server
from fumehood._concurrency_async import run_in_thread, sleep
from fumehood._errors import DeadlineError, DrainingError, LostError, ProtocolError, ServerError, error_from
from fumehood._settings import (
    CONNECT_TIMEOUT_S,
    REQUEST_TIMEOUT_S,
    RETRY_PAUSES_S,
    address_from,
    key_from,
    new_key,
)

Content = Union[bytes, Callable[[], AsyncIterator[bytes]], None]
"""The body of a request: bytes, or a function that returns an iterator for each attempt."""

_UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)

_READS = ("GET", "HEAD")
"""Methods without side effects."""


class AsyncTransport:
    """Connections to one server. A local server is found or started before the first request."""

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
        self._local_socket: Optional[Path] = None

    @property
    def where(self) -> tuple[object, ...]:
        """The identity of the server: equal for two transports to the same one."""
        return (self._address, self._api_key, _local_server.socket_path() if self._address.is_local else None)

    async def close(self) -> None:
        """Closes all connections. A later request opens new ones."""
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
        """Sends a request and returns the JSON object of the answer; an empty one if the answer has no content.

        Raises:
            FumehoodError: the server reports an error or cannot be reached.
        """
        response = await self.send(method, path, json=json, params=params, read_s=read_s, key=key)
        if not response.content:
            return {}
        try:
            answer = response.json()
        except ValueError as error:
            raise ProtocolError(f"the server's answer to {method} {path} is not valid JSON: {error}") from error
        if not isinstance(answer, dict):
            raise ProtocolError(f"the server's answer to {method} {path} is not a JSON object")
        return answer

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
        """Sends a request and returns the successful response, read completely unless ``stream`` is set.

        Requests with side effects carry an idempotency key, so that a retry after a broken connection does not act
        twice.

        Args:
            read_s: seconds without data after which the request fails.
            is_replayable: the body can be sent again.
            may_start_server: a local server may be started for the request.

        Raises:
            FumehoodError: the server reports an error or cannot be reached.
        """
        sent = self._headers(method, headers, key)
        pauses, was_sent = iter(RETRY_PAUSES_S), False

        while True:
            failure: Exception
            try:
                # A new server does not know what the old one may have started.
                http = await self._ready(may_start_server and not (was_sent and method not in _READS))
                request = http.build_request(
                    method,
                    path,
                    json=json,
                    content=content() if callable(content) else content,
                    params=params,
                    headers=sent,
                    timeout=httpx.Timeout(
                        read_s, connect=CONNECT_TIMEOUT_S, write=REQUEST_TIMEOUT_S, pool=REQUEST_TIMEOUT_S
                    ),
                )

                response = await http.send(request, stream=True)
                if response.is_error or not stream:
                    await response.aread()
                if not response.is_error:
                    return response

                # A local server that is shutting down is replaced by a new one. Other errors are final.
                failure = _error_from_response(response, sent["X-Request-Id"])
                if not (isinstance(failure, DrainingError) and self._address.is_local):
                    raise failure
                self._is_located = False
            except _UNSENT as error:
                # The request was not sent: it can be repeated in any case.
                failure, self._is_located = error, False
            except (httpx.ReadTimeout, httpx.WriteTimeout) as error:
                raise DeadlineError(
                    f"{method} {path}: the server did not answer within {read_s:g} s",
                    retry="safe" if method in _READS else "unknown",
                    request_id=sent["X-Request-Id"],
                ) from error
            except httpx.TransportError as error:
                failure, was_sent, self._is_located = error, True, False

            pause = next(pauses, None)
            if pause is None or (was_sent and not is_replayable):
                raise self._connection_error(method, path, failure, was_sent) from failure
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

        if self._address.is_local and self._custom_transport is None:
            socket = self._local_socket or _local_server.socket_path()
            if may_start_server and not self._is_located:
                socket = await run_in_thread(_local_server.ensure_running, _local_server.socket_path())
            if socket != self._local_socket:
                # Connections to a server that is gone are of no use.
                self._local_socket, self._http = socket, None
        self._is_located = True

        if self._http is None:
            # Each run in progress has its own connection; the caller decides how many there are.
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=20, keepalive_expiry=30)
            transport = self._custom_transport or httpx.AsyncHTTPTransport(
                uds=str(socket) if socket else None, limits=limits
            )
            self._http = httpx.AsyncClient(transport=transport, base_url=self._address.url, trust_env=False)
        return self._http

    def _connection_error(self, method: str, path: str, failure: Exception, was_sent: bool) -> Exception:
        if isinstance(failure, DrainingError):
            return failure

        server = f"{method} {path}: the server at {self._address_text()}"
        if not was_sent:
            return ServerError(f"{server} could not be reached: {failure}; is it running?", retry="safe")
        if method in _READS:
            return ServerError(f"{server} went away: {failure!r}", retry="safe")
        return LostError(
            f"{server} went away before it answered: {failure!r}; the request may have been executed", retry="unknown"
        )

    def _address_text(self) -> str:
        if self._address.is_local:
            return str(self._local_socket or _local_server.socket_path())
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

"""A mock server: answers that tests define, and the requests that it received."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Union

import httpx

Answer = Union[httpx.Response, Exception, Callable[[httpx.Request], httpx.Response]]

RUN = {"id": "run_1", "sandbox": None}
ENDED = {"id": "run_1", "exit_code": 0, "ended_by": "exited", "timing": {"total_ms": 5.0, "new": 1}}


def sse(*events: tuple[str, Any], first: int = 1) -> bytes:
    """Returns server-sent events, numbered from ``first``."""
    lines = [
        f"event: {name}\nid: {number}\ndata: {json.dumps(data)}\n\n"
        for number, (name, data) in enumerate(events, first)
    ]
    return "".join(lines).encode()


class Chunks(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body in chunks, which may break."""

    def __init__(self, *chunks: Union[bytes, BaseException]) -> None:
        self.chunks = chunks
        self.closed = False

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self.chunks:
            if isinstance(chunk, BaseException):
                raise chunk
            yield chunk

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self:
            yield chunk

    def close(self) -> None:
        self.closed = True

    async def aclose(self) -> None:
        self.closed = True


def stream(*chunks: Union[bytes, BaseException]) -> httpx.Response:
    return httpx.Response(200, headers={"Content-Type": "text/event-stream"}, stream=Chunks(*chunks))


def refusal(status: int, kind: str, retry: str = "never", **more: Any) -> httpx.Response:
    error = {"kind": kind, "retry": retry, "message": f"it is {kind}", "request_id": "r1", **more}
    return httpx.Response(status, json={"error": error})


class Server:
    """Returns its answers in order, and repeats the last one."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []
        self.bodies: list[bytes] = []
        self.transport = httpx.MockTransport(self._answer)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        self.bodies.append(request.content if not isinstance(request.stream, Chunks) else b"")
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, httpx.Response):
            return answer
        return answer(request)

    def asked(self) -> list[str]:
        return [f"{request.method} {request.url.path}" for request in self.requests]

    def body(self, index: int = 0) -> Any:
        return json.loads(self.bodies[index])

    def keys(self) -> list[str | None]:
        return [request.headers.get("Idempotency-Key") for request in self.requests]

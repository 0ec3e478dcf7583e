"""The files of a sandbox."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any, AsyncIterator, BinaryIO, Callable, List, Optional, Union

from fumehood._async.transport import AsyncTransport, Content
from fumehood._errors import NotFoundError, ProtocolError
from fumehood._concurrency_async import run_in_thread
from fumehood._models import FileInfo, dataclass_from
from fumehood._settings import CHUNK_BYTES, REQUEST_TIMEOUT_S

LocalPath = Union[str, "os.PathLike[str]"]


class AsyncFiles:
    """The files of a sandbox, as its user may touch them. Paths are absolute, or relative to the user's home."""

    def __init__(self, transport: AsyncTransport, base: Callable[[], str]) -> None:
        self._transport = transport
        self._base = base

    async def read(self, path: str) -> bytes:
        """A file's content.

        Raises:
            NotFoundError: there is none.
        """
        response = await self._transport.send("GET", self._url("/content"), params={"path": path}, headers=_BYTES_HEADERS)
        return response.content

    async def read_text(self, path: str, encoding: str = "utf-8") -> str:
        """A file's content as text.

        Raises:
            UnicodeDecodeError: it is none.
        """
        return (await self.read(path)).decode(encoding)

    async def read_range(self, path: str, start: int, length: int) -> bytes:
        """Bytes of a file from ``start`` on, ``length`` of them or what there is."""
        headers = {**_BYTES_HEADERS, "Range": f"bytes={start}-{start + length - 1}"}
        response = await self._transport.send("GET", self._url("/content"), params={"path": path}, headers=headers)
        return response.content if response.status_code == 206 else response.content[start : start + length]

    async def stream(self, path: str) -> AsyncIterator[bytes]:
        """A file's content, piece by piece."""
        response = await self._transport.send(
            "GET", self._url("/content"), params={"path": path}, headers=_BYTES_HEADERS, stream=True
        )
        try:
            async for chunk in response.aiter_bytes():
                yield chunk
        finally:
            await response.aclose()

    async def write(
        self,
        path: str,
        content: Union[bytes, str, BinaryIO],
        *,
        mode: Optional[int] = None,
        parents: bool = True,
    ) -> FileInfo:
        """Makes the file have this content, all of it or none.

        Args:
            content: bytes, text (as UTF-8), or an open file, which is sent from where it stands.
            mode: its permissions, as 0o644; none: those of the file that it replaces, else 0o644.
            parents: makes the directories that are missing on the way.
        """
        if isinstance(content, str):
            content = content.encode()
        if isinstance(content, (bytes, bytearray, memoryview)):
            return await self._put(path, bytes(content), mode, parents)
        start = content.tell() if content.seekable() else None
        return await self._put(path, _chunk_source(content, start), mode, parents, is_replayable=start is not None)

    async def write_text(self, path: str, text: str, encoding: str = "utf-8", **how: Any) -> FileInfo:
        """Makes the file have this text; ``how`` is as in :meth:`write`."""
        return await self.write(path, text.encode(encoding), **how)

    async def upload(self, local: LocalPath, remote: Optional[str] = None, **how: Any) -> FileInfo:
        """Brings a file of this machine into the sandbox: to ``remote``, or to its own name in the user's home."""
        with open(local, "rb") as file:
            return await self.write(remote or Path(local).name, file, **how)

    async def download(self, remote: str, local: Optional[LocalPath] = None) -> Path:
        """Brings a file of the sandbox to this machine: to ``local``, or to its own name here. It is there with all
        of its content, or as it was before."""
        to = Path(local) if local is not None else Path(Path(remote).name)
        if to.is_dir():
            to = to / Path(remote).name
        # Not by `tempfile`: it has the permissions that any new file has here.
        part = to.parent / f".{to.name}.{secrets.token_hex(8)}"
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            with open(handle, "wb") as file:
                async for chunk in self.stream(remote):
                    await run_in_thread(file.write, chunk)
            os.replace(part, to)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        return to

    async def stat(self, path: str) -> FileInfo:
        """What is at a path; a link there is not followed.

        Raises:
            NotFoundError: nothing is.
        """
        return _info(path, await self._transport.json("GET", self._url("/stat"), params={"path": path}))

    async def exists(self, path: str) -> bool:
        """Whether anything is at a path."""
        try:
            await self.stat(path)
        except NotFoundError as error:
            if error.io is None:
                raise
            return False
        return True

    async def list(self, path: str = ".", *, depth: int = 1) -> List[FileInfo]:
        """What is in a directory; ``depth`` 2 has what is in its directories, too. Links are not followed."""
        told = await self._transport.json("GET", self._url("/list"), params={"path": path, "depth": depth})
        return [_info(path, entry) for entry in told.get("entries", [])]

    async def make_dir(self, path: str) -> None:
        """Makes a directory, and those that are missing on the way."""
        await self._transport.send("POST", self._url("/directories"), json={"path": path})

    async def rename(self, old: str, new: str, *, replace: bool = False) -> None:
        """Gives a file or directory another name; ``replace``: takes the place of a file that has it."""
        body = {"from": old, "to": new, "replace": replace}
        await self._transport.send("POST", self._url("/move"), json=body)

    async def remove(self, path: str, *, recursive: bool = False) -> None:
        """Removes a file, a link or an empty directory; ``recursive``: a directory with all that is in it."""
        params = {"path": path, "recursive": str(recursive).lower()}
        await self._transport.send("DELETE", self._url(""), params=params)

    def _url(self, rest: str) -> str:
        return f"{self._base()}/files{rest}"

    async def _put(
        self, path: str, content: Content, mode: Optional[int], parents: bool, is_replayable: bool = True
    ) -> FileInfo:
        params = {"path": path, "parents": str(parents).lower()}
        if mode is not None:
            params["mode"] = f"{mode:o}"
        response = await self._transport.send(
            "PUT",
            self._url("/content"),
            content=content,
            params=params,
            headers={"Content-Type": "application/octet-stream"},
            read_s=2 * REQUEST_TIMEOUT_S,
            is_replayable=is_replayable,
        )
        return _info(path, response.json() if response.content else {})


_BYTES_HEADERS = {"Accept": "application/octet-stream, application/json;q=0.5"}


def _info(path: str, told: Any) -> FileInfo:
    told = dict(told)
    told.setdefault("path", told.get("name", path))
    if "kind" not in told:
        raise ProtocolError(f"the server's answer about {path} does not say what it is", retry="unknown")
    return dataclass_from(FileInfo, told)


def _chunk_source(file: BinaryIO, start: Optional[int]) -> Callable[[], AsyncIterator[bytes]]:
    """What gives a file's content, from this place on, as often as it is asked."""

    async def pieces() -> AsyncIterator[bytes]:
        if start is not None:
            await run_in_thread(file.seek, start)
        while True:
            chunk = await run_in_thread(file.read, CHUNK_BYTES)
            if not chunk:
                return
            yield chunk

    return pieces

"""Files of a sandbox."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any, AsyncIterator, BinaryIO, Callable, List, Optional, Union

from fumehood._async.transport import AsyncTransport, Content
from fumehood._concurrency_async import run_in_thread
from fumehood._errors import InvalidError, NotFoundError, ProtocolError
from fumehood._models import FileInfo, dataclass_from
from fumehood._settings import CHUNK_BYTES, REQUEST_TIMEOUT_S

LocalPath = Union[str, "os.PathLike[str]"]


class AsyncFiles:
    """The files of a sandbox, with the rights of its user. Paths are absolute, or relative to the user's home."""

    def __init__(self, transport: AsyncTransport, base: Callable[[], str]) -> None:
        self._transport = transport
        self._base = base

    async def read(self, path: str) -> bytes:
        """Returns the content of a file.

        Raises:
            NotFoundError: the file does not exist.
        """
        response = await self._transport.send(
            "GET", self._url("/content"), params={"path": path}, headers=_BYTES_HEADERS
        )
        return response.content

    async def read_text(self, path: str, encoding: str = "utf-8") -> str:
        """Returns the content of a file as text.

        Raises:
            UnicodeDecodeError: the content is not valid in this encoding.
        """
        return (await self.read(path)).decode(encoding)

    async def read_range(self, path: str, start: int, length: int) -> bytes:
        """Returns up to ``length`` bytes of a file, from offset ``start``."""
        headers = {**_BYTES_HEADERS, "Range": f"bytes={start}-{start + length - 1}"}
        response = await self._transport.send("GET", self._url("/content"), params={"path": path}, headers=headers)
        return response.content if response.status_code == 206 else response.content[start : start + length]

    async def stream(self, path: str) -> AsyncIterator[bytes]:
        """Yields the content of a file in chunks."""
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
        """Writes a file, atomically.

        Args:
            content: bytes, text (encoded as UTF-8), or an open file, which is read from its current position.
            mode: permissions, such as 0o644. Default: those of the replaced file, or else 0o644.
            parents: creates missing directories.
        """
        if isinstance(content, str):
            content = content.encode()
        if isinstance(content, (bytes, bytearray, memoryview)):
            return await self._put(path, bytes(content), mode, parents)

        # A file that can be rewound can be sent again after a broken connection.
        start = content.tell() if content.seekable() else None
        length = await run_in_thread(_length_from, content, start)
        chunks = _chunk_source(content, start, length)
        return await self._put(path, chunks, mode, parents, length=length, is_replayable=start is not None)

    async def write_text(self, path: str, text: str, encoding: str = "utf-8", **how: Any) -> FileInfo:
        """Writes text to a file. Takes the keyword arguments of :meth:`write`."""
        return await self.write(path, text.encode(encoding), **how)

    async def upload(self, local: LocalPath, remote: Optional[str] = None, **how: Any) -> FileInfo:
        """Copies a local file into the sandbox, to ``remote`` or to the same name in the user's home."""
        with open(local, "rb") as file:
            return await self.write(remote or Path(local).name, file, **how)

    async def download(self, remote: str, local: Optional[LocalPath] = None) -> Path:
        """Copies a file of the sandbox to ``local``, or to the same name in the current directory. The local file is
        replaced atomically. Returns its path."""
        to = Path(local) if local is not None else Path(Path(remote).name)
        if to.is_dir():
            to = to / Path(remote).name

        # Not `tempfile`, whose files are private: this one gets the permissions of any new file.
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
        """Returns information about a path. A link is not followed.

        Raises:
            NotFoundError: the path does not exist.
        """
        return _info(path, await self._transport.json("GET", self._url("/stat"), params={"path": path}))

    async def exists(self, path: str) -> bool:
        """Returns whether a path exists."""
        try:
            await self.stat(path)
        except NotFoundError as error:
            if error.io is None:
                raise
            return False
        return True

    async def list(self, path: str = ".", *, depth: int = 1) -> List[FileInfo]:
        """Returns the entries of a directory, ``depth`` levels deep. Links are not followed."""
        answer = await self._transport.json("GET", self._url("/list"), params={"path": path, "depth": depth})
        return [_info(path, entry) for entry in answer.get("entries", [])]

    async def make_dir(self, path: str) -> None:
        """Creates a directory and missing parents."""
        await self._transport.send("POST", self._url("/directories"), json={"path": path})

    async def rename(self, old: str, new: str, *, replace: bool = False) -> None:
        """Renames a file or directory. ``replace``: replaces an existing file."""
        body = {"from": old, "to": new, "replace": replace}
        await self._transport.send("POST", self._url("/move"), json=body)

    async def remove(self, path: str, *, recursive: bool = False) -> None:
        """Removes a file, a link or an empty directory. ``recursive``: also removes a directory with its content."""
        params = {"path": path, "recursive": str(recursive).lower()}
        await self._transport.send("DELETE", self._url(""), params=params)

    def _url(self, rest: str) -> str:
        return f"{self._base()}/files{rest}"

    async def _put(
        self,
        path: str,
        content: Content,
        mode: Optional[int],
        parents: bool,
        *,
        length: Optional[int] = None,
        is_replayable: bool = True,
    ) -> FileInfo:
        params = {"path": path, "parents": str(parents).lower()}
        if mode is not None:
            params["mode"] = f"{mode:o}"

        # A length that is known lets the server refuse a file that cannot fit before any of it is written.
        headers = {"Content-Type": "application/octet-stream"}
        if length is not None:
            headers["Content-Length"] = str(length)

        response = await self._transport.send(
            "PUT",
            self._url("/content"),
            content=content,
            params=params,
            headers=headers,
            read_s=2 * REQUEST_TIMEOUT_S,
            is_replayable=is_replayable,
        )
        return _info(path, response.json() if response.content else {})


_BYTES_HEADERS = {"Accept": "application/octet-stream, application/json;q=0.5"}


def _info(path: str, answer: Any) -> FileInfo:
    fields = dict(answer)
    fields.setdefault("path", fields.get("name", path))
    if "kind" not in fields:
        raise ProtocolError(f"the server's answer about {path} has no kind", retry="unknown")
    return dataclass_from(FileInfo, fields)


def _length_from(file: BinaryIO, start: Optional[int]) -> Optional[int]:
    """Returns how many bytes a file has from offset ``start``; ``None`` if it does not say."""
    if start is None:
        return None
    try:
        length = file.seek(0, os.SEEK_END) - start
    except OSError:
        length = 0
    file.seek(start)
    # Files of the kernel, such as those in /proc, report a size of 0.
    return length if length > 0 else None


def _chunk_source(
    file: BinaryIO, start: Optional[int], length: Optional[int]
) -> Callable[[], AsyncIterator[bytes]]:
    """Returns a function that yields ``length`` bytes, or all, of a file from offset ``start``, again for each call.

    The function's iterator raises InvalidError if the file has become shorter.
    """

    async def chunks() -> AsyncIterator[bytes]:
        if start is not None:
            await run_in_thread(file.seek, start)
        left = length
        while left != 0:
            chunk = await run_in_thread(file.read, CHUNK_BYTES if left is None else min(CHUNK_BYTES, left))
            if not chunk:
                if left is None:
                    return
                raise InvalidError(f"the file has become {left} bytes shorter while it was sent", retry="safe")
            if left is not None:
                left -= len(chunk)
            yield chunk

    return chunks

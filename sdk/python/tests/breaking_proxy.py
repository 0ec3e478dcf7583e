"""A proxy for a server's socket that breaks connections."""

from __future__ import annotations

import selectors
import socket
import threading
from pathlib import Path


class BreakingProxy:
    """Listens at ``path`` and forwards to ``server``. ``cuts`` has the numbers of bytes from the server after which the
    first connections break; later ones do not."""

    def __init__(self, path: Path, server: Path, cuts: list[int]) -> None:
        self.connections = 0
        self._server, self._cuts = server, list(cuts)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return
            left = self._cuts.pop(0) if self._cuts else None
            self.connections += 1
            threading.Thread(target=self._pass, args=(caller, left), daemon=True).start()

    def _pass(self, caller: socket.socket, left: int | None) -> None:
        server = socket.socket(socket.AF_UNIX)
        with caller, server, selectors.DefaultSelector() as ready:
            server.connect(str(self._server))
            ready.register(caller, selectors.EVENT_READ, server)
            ready.register(server, selectors.EVENT_READ, caller)
            while True:
                for key, _ in ready.select():
                    source, target = key.fileobj, key.data
                    data = source.recv(65536)  # type: ignore[union-attr]
                    if source is server and left is not None:
                        data, left = data[:left], left - len(data)
                    if not data:
                        return
                    try:
                        target.sendall(data)
                    except OSError:
                        return
                    if left is not None and left <= 0:
                        return

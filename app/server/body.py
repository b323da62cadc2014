"""Request body of a plain request, read from the client's socket as the application asks for it."""

from __future__ import annotations

from typing import Any

import gevent

from app.net.sockets import receive

_BLOCK = 65_536
_RECEIVE_TIMEOUT_S = 30.0  # between two packets of a body; the application has its own limit for the whole
_DISCARD_TIMEOUT_S = 30.0  # for all that is left of an unread body


class RequestBody:
    """A `wsgi.input`: the bytes that came with the head, then those still to be received."""

    def __init__(self, client: Any, received: bytes, size: int) -> None:
        self._client = client
        self._buffer = received
        self._outstanding = size - len(received)

    def read(self, size: int | None = -1) -> bytes:
        wanted = len(self._buffer) + self._outstanding if size is None or size < 0 else size
        blocks = [self._buffer]
        available = len(self._buffer)
        while available < wanted and self._outstanding > 0:
            block = receive(self._client, min(self._outstanding, _BLOCK), _RECEIVE_TIMEOUT_S)
            if not block:
                self._outstanding = 0
                break
            self._outstanding -= len(block)
            available += len(block)
            blocks.append(block)
        data = b"".join(blocks)
        self._buffer = data[wanted:]
        return data[:wanted]

    def readline(self, size: int | None = -1) -> bytes:
        data = self.read()
        end = data.find(b"\n") + 1 or len(data)
        if size is not None and 0 <= size < end:
            end = size
        self._buffer = data[end:]
        return data[:end]

    def readlines(self, hint: int | None = -1) -> list[bytes]:
        return self.read().splitlines(keepends=True)

    def __iter__(self) -> Any:
        return iter(self.readlines())

    def discard(self) -> bool:
        """Reads the bytes that the application left. Returns False if the connection cannot go on."""
        with gevent.Timeout(_DISCARD_TIMEOUT_S, False):  # type: ignore[arg-type]
            try:
                while self._outstanding > 0:
                    self.read(_BLOCK)
            except OSError:
                return False
            return True
        return False

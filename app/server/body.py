"""Request body of a plain request, read from the client's socket as the application asks for it."""

from __future__ import annotations

from typing import Any

import gevent

from app.net.sockets import receive

_BLOCK = 65_536
_BODY_S = 30.0  # between two packets of a body; the application has its own limit for the whole
_DISCARD_S = 30.0  # for all that is left of a body nobody wants


class RequestBody:
    """A `wsgi.input`: the bytes that came with the head, then those still to be received."""

    def __init__(self, client: Any, here: bytes, size: int) -> None:
        self._client = client
        self._here = here
        self._to_come = size - len(here)

    def read(self, size: int | None = -1) -> bytes:
        wanted = len(self._here) + self._to_come if size is None or size < 0 else size
        blocks = [self._here]
        have = len(self._here)
        while have < wanted and self._to_come > 0:
            block = receive(self._client, min(self._to_come, _BLOCK), _BODY_S)
            if not block:
                self._to_come = 0
                break
            self._to_come -= len(block)
            have += len(block)
            blocks.append(block)
        data = b"".join(blocks)
        self._here = data[wanted:]
        return data[:wanted]

    def readline(self, size: int | None = -1) -> bytes:
        data = self.read()
        end = data.find(b"\n") + 1 or len(data)
        if size is not None and 0 <= size < end:
            end = size
        self._here = data[end:]
        return data[:end]

    def readlines(self, hint: int | None = -1) -> list[bytes]:
        return self.read().splitlines(keepends=True)

    def __iter__(self) -> Any:
        return iter(self.readlines())

    def discard(self) -> bool:
        """Reads what the application left; False if the connection cannot go on."""
        with gevent.Timeout(_DISCARD_S, False):  # type: ignore[arg-type]
            try:
                while self._to_come > 0:
                    self.read(_BLOCK)
            except OSError:
                return False
            return True
        return False

"""Wire interface: what a played vendor's dialect offers the server."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Protocol

from tests.support.vendors.play import Asked, Refused, Turn


@dataclass(frozen=True)
class Pieces:
    """A stream's SSE events: what comes before the first content, the content, and what comes after it."""

    opening: list[bytes]
    content: list[bytes]
    ending: list[bytes]


class Wire(Protocol):
    """A dialect. `read` raises `Refused` for a request that a real vendor refuses."""

    def read(self, body: bytes, headers: dict[str, str], *, model: str, stream: bool) -> Asked:
        """Returns what the request asks. `model` and `stream` are the path's, for the dialect that has them there."""

    def whole(self, turn: Turn, asked: Asked) -> dict[str, Any]: ...

    def pieces(self, turn: Turn, asked: Asked) -> Pieces: ...

    def error(self, refused: Refused) -> dict[str, Any]: ...

    def error_event(self, refused: Refused) -> bytes: ...

    def overflow(self) -> Refused:
        """Returns the refusal of a prompt that is too long, in the vendor's words."""


def sse(value: dict[str, Any], name: str = "") -> bytes:
    event = f"event: {name}\n" if name else ""
    return f"{event}data: {json.dumps(value, separators=(',', ':'), ensure_ascii=False)}\n\n".encode()


def chopped(text: str, size: int = 7) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]

"""JSON arrays of streamed answers: Google's form of a stream for clients that do not ask for server-sent events."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from app.api.http import HttpResponse

_DATA = b"data: "


def as_json_array(response: HttpResponse) -> HttpResponse:
    """Returns a response of server-sent events as one whose body is an array of their payloads."""
    headers = [(name, value) for name, value in response.headers if name != "Content-Type"]
    blocks = (response.body,) if isinstance(response.body, bytes) else response.body
    return HttpResponse(response.status, [("Content-Type", "application/json"), *headers], _Elements(blocks))


class _Elements:
    """A stream as a WSGI body: an element an event, white space for a heartbeat."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._blocks = blocks

    def __iter__(self) -> Iterator[bytes]:
        before = b"["
        for block in self._blocks:
            written: list[bytes] = []
            for event in block.replace(b"\r\n", b"\n").split(b"\n\n"):
                if event.startswith(_DATA):
                    written += (before, event[len(_DATA) :])
                    before = b",\r\n"
            yield b"".join(written) or b"\n"
        yield b"[]" if before == b"[" else b"]"

    def close(self) -> None:
        close = getattr(self._blocks, "close", None)
        if close is not None:
            close()

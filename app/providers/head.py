"""Reading a provider's answer: the common one at once, every other one as it comes.

The common one is whole in its first packet and says its length: cutting it takes 0.006 ms of a completion less than
llhttp with its callbacks. What is not plain is llhttp's, which is strict.
"""

from __future__ import annotations

import re

from geventhttpclient.response import HTTPResponse

from app.heads import lines_of, lower_name

# Interim answers and those that have no body whatever their headers say are not plain.
_STATUS_LINE = re.compile(r"HTTP/1\.1 (?!204|205|304)([2-5][0-9]{2}) .*")

_ONCE = frozenset({"content-length", "connection"})
_NOT_PLAIN = ("transfer-encoding", "proxy-connection")


class Parser(HTTPResponse):
    """An answer as it comes, in pieces or chunks."""

    def take(self) -> bytes:
        """What has come of the body, once."""
        block = bytes(self._body_buffer)
        if block:
            self._body_buffer.clear()
        return block


class Whole:
    """An answer that is complete. To its reader the same as a `Parser` that has got everything."""

    __slots__ = ("_body", "_headers", "_status")
    headers_complete = message_complete = True

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self._status = status
        self._headers = headers
        self._body = body

    def get_code(self) -> int:
        return self._status

    def get(self, name: str) -> str | None:
        return self._headers.get(name)

    def take(self) -> bytes:
        body, self._body = self._body, b""
        return body

    def feed(self, data: bytes) -> None:
        """Only the end of the connection can follow."""

    def should_close(self) -> bool:
        return False


def whole(data: bytes) -> Whole | None:
    """The answer that `data` is; None if that is more or less than one plain answer."""
    head = lines_of(data)
    if head is None:
        return None
    lines, start = head
    status_line = _STATUS_LINE.fullmatch(lines[0])
    if status_line is None:
        return None
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        lower = lower_name(name)
        if not lower or not colon or (lower in _ONCE and lower in headers):
            return None
        headers.setdefault(lower, value.strip(" \t"))
    length = headers.get("content-length", "")
    if not length.isdigit() or not length.isascii() or len(length) > 9 or len(data) != start + int(length):
        return None
    if headers.get("connection", "keep-alive").lower() != "keep-alive" or any(name in headers for name in _NOT_PLAIN):
        return None
    return Whole(int(status_line[1]), headers, data[start:])

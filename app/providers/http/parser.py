"""HTTP/1.1 response parsers: one match for a response that is complete in its first packet, llhttp for all others.

The common response comes in one packet and says its length: one match takes 0.006 ms of a completion less than llhttp
with its callbacks. Whatever is not plain goes to llhttp, which is strict.
"""

from __future__ import annotations

from geventhttpclient.response import HTTPResponse

from app.net.http_head import TEXT, head

# Interim responses and those that have no body whatever their headers say are not plain.
_PLAIN_RESPONSE = head(rf"HTTP/1\.1 (?!204|205|304)([2-5][0-9]{{2}}) {TEXT}")


class IncrementalParser(HTTPResponse):
    """llhttp's parser of a response that comes in pieces or chunks."""

    def take_body(self) -> bytes:
        """Returns what has come of the body since the last call."""
        block = bytes(self._body_buffer)
        if block:
            self._body_buffer.clear()
        return block


class CompleteResponse:
    """A response that is complete, with the interface of an `IncrementalParser` that has been fed everything."""

    __slots__ = ("_body", "_header_lines", "_lower", "_status")
    headers_complete = message_complete = True

    def __init__(self, status: int, header_lines: bytes, body: bytes) -> None:
        """`header_lines` have a CRLF before each and after the last."""
        self._status = status
        self._header_lines = header_lines
        self._lower = header_lines.lower()
        self._body = body

    def get_code(self) -> int:
        return self._status

    def get(self, name: str) -> str | None:
        """Returns the value of the first header of this name, which is in lower case."""
        mark = b"\r\n%b:" % name.encode()
        at = self._lower.find(mark)
        if at < 0:
            return None
        start = at + len(mark)
        return self._header_lines[start : self._header_lines.index(b"\r\n", start)].decode("latin-1").strip(" \t")

    def has_exact_length(self) -> bool:
        """Returns True if the one Content-Length is right, and no header tells another end of body or connection."""
        lower = self._lower
        if lower.count(b"\r\ncontent-length:") != 1 or lower.count(b"\r\nconnection:") > 1:
            return False
        if b"\r\ntransfer-encoding:" in lower or b"\r\nproxy-connection:" in lower:
            return False
        length = self.get("content-length") or ""
        if not length.isascii() or not length.isdigit() or len(length) > 9 or int(length) != len(self._body):
            return False
        connection = self.get("connection")
        return connection is None or connection.lower() == "keep-alive"

    def take_body(self) -> bytes:
        body, self._body = self._body, b""
        return body

    def feed(self, data: bytes) -> None:
        """Ignores `data`: only the end of the connection can follow."""

    def should_close(self) -> bool:
        return False


def parse_complete(data: bytes) -> CompleteResponse | None:
    """Returns the response that `data` is; None if it is more or less than one plain response."""
    match = _PLAIN_RESPONSE.match(data)
    if match is None:
        return None
    end = match.end()
    response = CompleteResponse(int(match[1]), data[match.start(2) - 2 : end - 2], data[end:])
    return response if response.has_exact_length() else None

"""Response writer: runs the WSGI application and sends its response, the head with the first bytes of the body."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gunicorn.http.errors import InvalidResponseHeader

from app.net.sockets import send
from app.server.state import WorkerState

_SEND_TIMEOUT_S = 60.0  # without a byte taken in by the client
_HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "server",
        "date",
    }
)


class ResponseWriter:
    """Writes the response to one request."""

    __slots__ = ("_chunked", "_client", "_head", "_keep_alive", "_remaining", "_state", "started")

    def __init__(self, client: Any, state: WorkerState, keep_alive: bool) -> None:
        self._client = client
        self._state = state
        self._keep_alive = keep_alive
        self._head = b""
        self._chunked = False
        self._remaining = 0  # bytes of the promised body, when it is not chunked
        self.started = False

    def run(self, environ: dict[str, Any]) -> bool:
        """Runs the application and sends its response. Returns True if the connection can be used again."""
        result = self._state.application(environ, self.start_response)
        try:
            for block in result:
                if block:
                    self.write(block)
            if self._head:
                self.write(b"")
            if self._chunked:
                send(self._client, b"0\r\n\r\n", _SEND_TIMEOUT_S)
        except OSError:
            raise
        except Exception as exc:
            if not self.started:
                raise
            # Too late for an error: the client must see that the response is not whole.
            self._state.worker.log.exception("Error handling request")
            raise ConnectionAbortedError from exc
        finally:
            close = getattr(result, "close", None)
            if close is not None:
                close()
        return self._keep_alive and self._remaining <= 0

    def start_response(self, status: str, headers: Iterable[tuple[str, str]], exc_info: Any = None) -> Any:
        """Raises `InvalidResponseHeader` for a header that would end its line."""
        if exc_info is not None and self.started:
            raise exc_info[1]
        lines = [""]
        length = None
        for name, value in headers:
            lower = name.lower()
            if lower in _HOP_BY_HOP:
                continue
            if lower == "content-length":
                length = int(value)
            lines.append(f"{name}: {value}")
        bodiless = status[:3] in ("204", "304")
        self._chunked = length is None and not bodiless
        self._remaining = 0 if bodiless else length or 0
        text = "\r\n".join(lines)
        if text.count("\r") != len(lines) - 1 or text.count("\n") != len(lines) - 1 or "\0" in text:
            raise InvalidResponseHeader("a header's value")  # type: ignore[no-untyped-call]
        self._head = b"HTTP/1.1 %b\r\nServer: gunicorn\r\nDate: %b\r\nConnection: %b%b%b\r\n\r\n" % (
            status.encode("latin-1"),
            self._state.date(),
            b"keep-alive" if self._keep_alive else b"close",
            text.encode("latin-1"),
            b"\r\nTransfer-Encoding: chunked" if self._chunked else b"",
        )
        return self.write

    def write(self, block: bytes) -> None:
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(block), block) if block else b""
        else:
            data = block[: self._remaining]  # never more than was promised: it would pass for the next answer
            self._remaining -= len(data)
        if self._head:
            data, self._head = self._head + data, b""
        self.started = True
        send(self._client, data, _SEND_TIMEOUT_S)

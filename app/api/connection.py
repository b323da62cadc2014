"""The short way through the server: one client's plain requests, from bytes to WSGI and back in one send.

gunicorn's general way costs 0.2 ms a request; most requests need little of it. What is not plain (another
protocol version, a chunked, huge or expected body, an odd target, an ambiguous or broken header) is handed
to gunicorn byte for byte, with the rest of the connection: it refuses what must be refused.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from email.utils import formatdate
from io import BytesIO
from typing import Any

from gunicorn.http.errors import InvalidResponseHeader
from gunicorn.http.message import _ip_in_allow_list
from gunicorn.http.wsgi import base_environ
from gunicorn_h1c import IncompleteError, ParseError, parse_request  # type: ignore[import-untyped]

from app.sockets import receive, send

_BLOCK = 65_536
_LARGEST_BODY = 1024 * 1024
_BODY_S = 30.0  # between two packets of a body; the application has its own limit for the whole
_SEND_S = 60.0  # that a client may take in nothing
_METHODS = frozenset({b"GET", b"POST", b"PUT", b"PATCH", b"DELETE"})
# No escapes, no fragment, no double slash at the start: what follows from those is gunicorn's to decide.
_PLAIN_TARGET = re.compile(rb"/(?!/)[!\"$&-~]*")
# They change what a message is, or how its environ is made.
_NOT_PLAIN = frozenset({
    b"TRANSFER-ENCODING", b"EXPECT", b"UPGRADE", b"SCRIPT-NAME", b"PROXY-CONNECTION", b"TE", b"TRAILER", b"KEEP-ALIVE",
})  # fmt: skip
_HOP_BY_HOP = frozenset({
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding",
    "upgrade", "server", "date",
})  # fmt: skip
_MOST_NAMES = 500


class Site:
    """What all connections of a worker share."""

    def __init__(self, worker: Any) -> None:
        self.worker = worker
        self.application = worker.wsgi
        cfg = worker.cfg
        self.environ: dict[str, Any] = {**base_environ(cfg), "wsgi.multithread": True}  # type: ignore[no-untyped-call]
        self.keepalive_s = cfg.keepalive
        self.limits = (cfg.limit_request_line, cfg.limit_request_fields, cfg.limit_request_field_size)
        self._names: dict[bytes, str] = {}
        self._date = (0, b"")

    def scheme_headers(self, peer: Any) -> dict[str, str]:
        """The headers by which `peer`, if it is our proxy, says that the client came over TLS."""
        cfg = self.worker.cfg
        trusted = not isinstance(peer, tuple) or _ip_in_allow_list(  # type: ignore[no-untyped-call]
            peer[0], cfg.forwarded_allow_ips, cfg.forwarded_allow_networks()
        )
        return (
            {f"HTTP_{name.replace('-', '_')}": on for name, on in cfg.secure_scheme_headers.items()} if trusted else {}
        )

    def key(self, name: bytes) -> str:
        """The environ key of a header; "" for one that is not plain."""
        key = self._names.get(name)
        if key is None:
            upper = name.upper()
            plain = upper and b"_" not in upper and upper not in _NOT_PLAIN
            key = f"HTTP_{upper.decode('ascii').replace('-', '_')}" if plain else ""
            if key in ("HTTP_CONTENT_TYPE", "HTTP_CONTENT_LENGTH"):
                key = key[5:]
            if len(self._names) < _MOST_NAMES:
                self._names[name] = key
        return key

    def date(self) -> bytes:
        now = int(time.time())
        if now != self._date[0]:
            self._date = (now, formatdate(now, usegmt=True).encode())
        return self._date[1]


class Connection:
    """One client's connection. `environ` of its requests differs only in what the requests say."""

    def __init__(self, site: Site, listener: Any, client: Any, peer: Any) -> None:
        self._site = site
        self._client = client
        self._scheme_headers = site.scheme_headers(peer)
        self._environ: dict[str, Any] = {**site.environ, "gunicorn.socket": client, "wsgi.url_scheme": "http"}
        if isinstance(peer, tuple):
            self._environ["REMOTE_ADDR"], self._environ["REMOTE_PORT"] = peer[0], str(peer[1])
        here = listener.getsockname()
        name, port = (here[0], str(here[1])) if isinstance(here, tuple) else ("localhost", "80")
        self._environ |= {"SERVER_NAME": name, "SERVER_PORT": port, "SCRIPT_NAME": ""}

    def serve(self) -> bytes | None:
        """Serves plain requests until the connection ends (None), or one comes that is not plain: the bytes
        from there on are the caller's to serve."""
        site, client = self._site, self._client
        data = b""
        while True:
            if not data:
                try:
                    data = receive(client, _BLOCK, site.keepalive_s)
                except TimeoutError:
                    return None
                if not data:
                    return None
            request = self._plain(data)
            if request is None:
                return bytes(data)
            environ, consumed = request
            body = environ["wsgi.input"]
            keep = site.worker.counts_request() and environ.get("HTTP_CONNECTION", "").lower() != "close"
            answer = Answer(client, site, keep)
            if not answer.give(environ):
                return None
            if type(body) is Body and not body.discard():
                return None
            data = data[consumed:]

    def _plain(self, data: bytes) -> tuple[dict[str, Any], int] | None:
        """The environ of the request at the start of `data` and its length there; None if it is not plain."""
        line, fields, field = self._site.limits
        try:
            parsed = parse_request(
                data, limit_request_line=line, limit_request_fields=fields, limit_request_field_size=field
            )
        except (ParseError, IncompleteError):
            return None
        method, target = parsed["method"], parsed["path"]
        if method not in _METHODS or parsed["minor_version"] != 1 or not _PLAIN_TARGET.fullmatch(target):
            return None
        environ = self._environ.copy()
        for name, value in parsed["headers"]:
            key = self._site.key(name)
            if not key or key in environ:
                return None
            environ[key] = value.decode("latin-1").strip(" \t")
        connection = environ.get("HTTP_CONNECTION")
        if connection is not None and connection.lower() not in ("close", "keep-alive"):
            return None
        if not self._tells_scheme(environ):
            return None
        size = environ.get("CONTENT_LENGTH", "0")
        if not size.isdecimal() or not size.isascii() or len(size) > 7 or int(size) > _LARGEST_BODY:
            return None
        uri = target.decode("ascii")
        path, _, query = uri.partition("?")
        environ["REQUEST_METHOD"] = method.decode("ascii")
        environ["PATH_INFO"], environ["QUERY_STRING"], environ["RAW_URI"] = path, query, uri
        environ["SERVER_PROTOCOL"] = "HTTP/1.1"
        start = parsed["consumed"]
        end = start + int(size)
        here = data[start:end]
        complete = len(data) >= end
        environ["wsgi.input"] = BytesIO(here) if complete else Body(self._client, here, int(size))
        return environ, end

    def _tells_scheme(self, environ: dict[str, Any]) -> bool:
        """Takes the scheme from a trusted proxy's header; False when there are two of them."""
        told = [key for key in self._scheme_headers if key in environ]
        if told:
            environ["wsgi.url_scheme"] = "https" if environ[told[0]] == self._scheme_headers[told[0]] else "http"
        return len(told) < 2


class Body:
    """A request's body that is still arriving. As `wsgi.input`, as far as WSGI asks for it."""

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
        try:
            while self._to_come > 0:
                self.read(_BLOCK)
        except OSError:
            return False
        return True


class Answer:
    """One answer on its way out: the head goes with the first bytes of the body."""

    __slots__ = ("_chunked", "_client", "_head", "_keep", "_left", "_site", "started")

    def __init__(self, client: Any, site: Site, keep: bool) -> None:
        self._client = client
        self._site = site
        self._keep = keep
        self._head = b""
        self._chunked = False
        self._left = 0  # of the promised body, when it is not chunked
        self.started = False

    def give(self, environ: dict[str, Any]) -> bool:
        """Runs the application and sends what it answers. Whether the connection can be used again."""
        result = self._site.application(environ, self.start_response)
        try:
            for block in result:
                if block:
                    self.write(block)
            if self._head:
                self.write(b"")
            if self._chunked:
                send(self._client, b"0\r\n\r\n", _SEND_S)
        except OSError:
            raise
        except Exception as exc:
            if not self.started:
                raise
            # Too late for an error: the client must see that the answer is not whole.
            self._site.worker.log.exception("Error handling request")
            raise ConnectionAbortedError from exc
        finally:
            close = getattr(result, "close", None)
            if close is not None:
                close()
        return self._keep and self._left <= 0

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
        self._left = 0 if bodiless else length or 0
        text = "\r\n".join(lines)
        if text.count("\r") != len(lines) - 1 or text.count("\n") != len(lines) - 1 or "\0" in text:
            raise InvalidResponseHeader("a header's value")  # type: ignore[no-untyped-call]
        self._head = b"HTTP/1.1 %b\r\nServer: gunicorn\r\nDate: %b\r\nConnection: %b%b%b\r\n\r\n" % (
            status.encode("latin-1"), self._site.date(), b"keep-alive" if self._keep else b"close",
            text.encode("latin-1"), b"\r\nTransfer-Encoding: chunked" if self._chunked else b"",
        )  # fmt: skip
        return self.write

    def write(self, block: bytes) -> None:
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(block), block) if block else b""
        else:
            data = block[: self._left]  # never more than was promised: it would pass for the next answer
            self._left -= len(data)
        if self._head:
            data, self._head = self._head + data, b""
        self.started = True
        send(self._client, data, _SEND_S)


class Unread:
    """A client's socket of which `data` was read already."""

    def __init__(self, client: Any, data: bytes) -> None:
        self._client = client
        self._data = data

    def recv(self, size: int, *flags: int) -> bytes:
        if self._data and not flags:
            data, self._data = self._data[:size], self._data[size:]
            return data
        received: bytes = self._client.recv(size, *flags)
        return received

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

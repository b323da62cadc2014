"""Fast HTTP/1.1 for plain requests: one client's connection, from bytes to WSGI and back in one send.

gunicorn's general implementation costs 0.2 ms a request; most requests need little of it. A request that is not plain
(another protocol version, a chunked, huge or expected body, an odd target, an ambiguous or broken header) is handed to
gunicorn byte for byte, with the rest of the connection: it refuses what must be refused.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any

import gevent
from gunicorn.http.errors import LimitRequestHeaders

from app.net.environ import DRAINING, HANGUP_WATCHER
from app.net.hangup import HangupWatcher
from app.net.http_head import head
from app.net.sockets import receive
from app.server.body import RequestBody
from app.server.response import ResponseWriter
from app.server.state import WorkerState, environ_key

_BLOCK = 65_536
_MAX_BODY_BYTES = 1024 * 1024
_MAX_HEAD_BYTES = 65_536  # besides its first packet; nginx takes half as much
# No escapes, no fragment, no double slash at the start: gunicorn decides what these mean.
_REQUEST = head(r"(GET|POST|PUT|PATCH|DELETE) (/(?!/)[!\"$&-~]*+) HTTP/1\.1")


class Connection:
    """One client's connection. The environs of its requests differ only in the requests' own fields."""

    def __init__(self, state: WorkerState, listener: Any, client: Any, peer: Any) -> None:
        self._state = state
        self._client = client
        self._scheme_headers = state.scheme_headers(peer)
        self._hangup = HangupWatcher(client)
        self._environ: dict[str, Any] = {
            **state.environ,
            "gunicorn.socket": client,
            HANGUP_WATCHER: self._hangup,
            "wsgi.url_scheme": "http",
        }
        if isinstance(peer, tuple):
            self._environ["REMOTE_ADDR"], self._environ["REMOTE_PORT"] = peer[0], str(peer[1])
        address = listener.getsockname()
        name, port = (address[0], str(address[1])) if isinstance(address, tuple) else ("localhost", "80")
        self._environ |= {"SERVER_NAME": name, "SERVER_PORT": port, "SCRIPT_NAME": "", "SERVER_PROTOCOL": "HTTP/1.1"}

    def serve(self) -> bytes | None:
        """Serves plain requests until the connection ends (returns None), or until one comes that is not plain (returns
        the bytes from there on, for the caller to serve)."""
        state, client = self._state, self._client
        greenlet = gevent.getcurrent()
        state.serving.add(greenlet)
        try:
            return self._serve(state, client)
        finally:
            self._hangup.close()
            state.serving.discard(greenlet)

    def _serve(self, state: WorkerState, client: Any) -> bytes | None:
        data = b""
        while True:
            if not data:
                state.idle.add(client)
                try:
                    data = receive(client, _BLOCK, state.keepalive_s)
                except TimeoutError:
                    return None
                finally:
                    state.idle.discard(client)
                if not data:
                    return None
            request = self._parse(data)
            if request is None:
                return bytes(data)
            environ, consumed = request
            body = environ["wsgi.input"]
            alive = state.worker.counts_request()
            environ[DRAINING] = not alive
            keep_alive = alive and environ.get("HTTP_CONNECTION", "").lower() != "close"
            writer = ResponseWriter(client, state, keep_alive)
            if not writer.run(environ):
                return None
            if type(body) is RequestBody and not body.discard():
                return None
            data = data[consumed:]

    def _parse(self, data: bytes) -> tuple[dict[str, Any], int] | None:
        """Returns the environ of the request at the start of `data`, and its length there; None if it is not plain."""
        found = _REQUEST.match(data)
        if found is None:
            return None
        start = found.end()
        lines = found[3].decode("latin-1").split("\r\n")
        lines.pop()  # the empty string after the last line's end
        max_line, max_fields, max_field = self._state.limits
        if found.start(3) - 2 > max_line or len(lines) > max_fields:
            return None
        if start > max_field and max(map(len, lines), default=0) + 2 > max_field:
            return None
        environ = self._environ.copy()
        for line in lines:
            name, _, value = line.partition(":")
            key = environ_key(name)
            if not key or key in environ:
                return None
            environ[key] = value.strip(" \t")
        connection = environ.get("HTTP_CONNECTION")
        if connection is not None and connection.lower() not in ("close", "keep-alive"):
            return None
        if not self._set_scheme(environ):
            return None
        size = environ.get("CONTENT_LENGTH", "0")
        if not size.isdecimal() or not size.isascii() or len(size) > 7 or int(size) > _MAX_BODY_BYTES:
            return None
        uri = found[2].decode("ascii")
        path, _, query = uri.partition("?")
        environ["REQUEST_METHOD"] = found[1].decode("ascii")
        environ["PATH_INFO"], environ["QUERY_STRING"], environ["RAW_URI"] = path, query, uri
        end = start + int(size)
        received = data[start:end]
        complete = len(data) >= end
        environ["wsgi.input"] = BytesIO(received) if complete else RequestBody(self._client, received, int(size))
        return environ, end

    def _set_scheme(self, environ: dict[str, Any]) -> bool:
        """Sets the scheme by a trusted proxy's header. Returns False when there are two such headers."""
        present = [key for key in self._scheme_headers if key in environ]
        if present:
            environ["wsgi.url_scheme"] = "https" if environ[present[0]] == self._scheme_headers[present[0]] else "http"
        return len(present) < 2


class UnreadSocket:
    """A client's socket with `data` put back in front of it, for gunicorn to read.

    While no request of it is being served, it is one of the worker's idle sockets.
    """

    def __init__(self, state: WorkerState, client: Any, data: bytes) -> None:
        self._state = state
        self._client = client
        self._data = data
        self._head_bytes = 0  # at most
        self._serving = False

    def serving(self, on: bool) -> None:
        self._serving, self._head_bytes = on, 0

    def recv(self, size: int, *flags: int) -> bytes:
        if self._data and not flags:
            data, self._data = self._data[:size], self._data[size:]
            return data
        if not self._serving:
            self._state.idle.add(self._client)
        received: bytes = b""
        try:
            received = self._client.recv(min(size, _BLOCK), *flags)
        except OSError:
            if self._serving or self._client.fileno() >= 0:
                raise  # else `WorkerState.drain` has closed it
        finally:
            self._state.idle.discard(self._client)
        # gunicorn would take in 0.8 MB, from anybody, before it says that a head is too long.
        self._head_bytes += 0 if self._serving else len(received)
        if self._head_bytes > _MAX_HEAD_BYTES:
            raise LimitRequestHeaders("the head is too long")  # type: ignore[no-untyped-call]
        return received

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

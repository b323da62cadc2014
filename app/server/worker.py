"""gunicorn's gevent worker, with a fast HTTP implementation for plain requests, and with errors in the one JSON shape.

A request that gunicorn refuses before the application sees it would be answered with an HTML page, which SDKs cannot
parse, and which repeats the client's bytes.
"""

from __future__ import annotations

import errno
import secrets
import socket
from http import HTTPStatus
from typing import Any

import gevent
import msgspec
import structlog
from gevent.server import StreamServer
from gunicorn.http import errors as http_errors
from gunicorn.util import write_nonblock
from gunicorn.workers import ggevent

from app.errors import GatewayError, InvalidRequest
from app.net.environ import DRAINING
from app.net.error_body import error_body
from app.server.connection import Connection, UnreadSocket
from app.server.state import WorkerState

log = structlog.get_logger()
_ACCEPT_RETRY_S = 0.1  # until another connection is accepted, when descriptors have run out
_STATUSES: dict[type[Exception], int] = {
    http_errors.LimitRequestLine: 414,
    http_errors.LimitRequestHeaders: 431,
    http_errors.ExpectationFailed: 417,
    http_errors.UnsupportedTransferCoding: 501,
}
_DISCARD_TIMEOUT_S = 30.0
_DISCARD_BLOCK = 65_536
_SERVER_FAULTS = (
    http_errors.InvalidResponseHeader,
    http_errors.InvalidResponseHeaderName,
    http_errors.ConfigurationProblem,
)


class _Server(StreamServer):
    """A stream server that accepts several connections in a turn of the event loop.

    gunicorn wants one, to spread them evenly over the workers; but in a rush, while each turn of the loop serves
    hundreds of streams, the last of 1,000 then waited for 3 s.
    """

    max_accept = property(lambda self: 16, lambda self, value: None)  # gunicorn's attempt to set it has no effect
    _accepted_rest = False
    _out_of_descriptors = False

    def do_read(self) -> Any:
        """Accepts a connection, as gevent's method does. When descriptors run out, new clients wait in the kernel's
        queue for a moment: to gevent that is an error of the loop, with a traceback for each attempt."""
        try:
            accepted = super().do_read()
        except OSError as exc:
            if exc.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            self.stop_accepting()
            self._timer = self.loop.timer(_ACCEPT_RETRY_S)
            self._timer.start(self._start_accepting_if_started)  # type: ignore[attr-defined,call-arg]
            if not self._out_of_descriptors:
                self._out_of_descriptors = True
                log.error("out_of_descriptors", reason=exc.strerror)
            return None
        if accepted:
            self._out_of_descriptors = False
        return accepted

    def close(self) -> None:
        """Stops listening. Clients that have connected already are served: the kernel would reset them, and a proxy
        that has sent a POST does not repeat it."""
        if not self.closed and not self._accepted_rest:
            self._accepted_rest = True
            self._do_read()  # type: ignore[attr-defined]
        super().close()


def discard(body: Any) -> bool:
    """Reads the rest of a request's body that the application left. Returns False if the connection cannot go on.

    gunicorn would do so in pieces of 1 KiB, and move all that it has read ahead for each: 0.25 s of CPU for 10 MB.
    """
    with gevent.Timeout(_DISCARD_TIMEOUT_S, False):  # type: ignore[arg-type]
        try:
            while body.read(_DISCARD_BLOCK):
                gevent.sleep(0)  # a fast client never makes us wait, and the worker's other calls would
        except Exception:  # noqa: BLE001 - the body is broken, or the client gone: either way this was its last request
            return False
        return True
    return False


ggevent.StreamServer = _Server  # type: ignore[attr-defined]


class Worker(ggevent.GeventWorker):
    """The worker class named in gunicorn.conf.py. The master imports it too."""

    settling_s = 10  # before gunicorn's `graceful_timeout` kills it, a worker ends its calls itself, and settles them
    _state: Any = None

    def run(self) -> None:
        self._state = WorkerState(self)
        self.wsgi = self._application  # for gunicorn's own handling; `Connection` sets the environ's key itself
        super().run()  # type: ignore[no-untyped-call]

    def _application(self, environ: dict[str, Any], start_response: Any) -> Any:
        environ[DRAINING] = not self.alive
        return self._state.application(environ, start_response)

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """Serves one connection. Never raises."""
        listener = self._state.listeners[id(listener)]
        try:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            unread = Connection(self._state, listener, client, addr).serve()
        except (OSError, gevent.GreenletExit):
            unread = None  # The client is gone, or the worker is about to be.
        except Exception as exc:  # noqa: BLE001 - the boundary for bugs: `handle_error` logs it
            unread = None
            self.handle_error(None, client, addr, exc)
        if unread is None:
            client.close()
            return
        greenlet = gevent.getcurrent()
        self._state.serving.add(greenlet)
        try:
            super().handle(listener, UnreadSocket(self._state, client, unread), addr)  # type: ignore[no-untyped-call]
        finally:
            self._state.serving.discard(greenlet)

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> None:
        """Serves one request as gunicorn does. Raises StopIteration when it was the connection's last."""
        sock.serving(True)
        try:
            super().handle_request(listener_name, req, sock, addr)  # type: ignore[no-untyped-call]
            if not self.alive or not discard(req.body):
                raise StopIteration
        finally:
            sock.serving(False)

    def notify(self) -> None:
        """Gives gunicorn's sign of life, every second, also while the worker waits for its last calls."""
        super().notify()  # type: ignore[no-untyped-call]
        if not self.alive and self._state is not None:  # None: it has not begun to run
            self._state.drain()

    def handle_quit(self, sig: Any, frame: Any) -> None:
        """Ends and settles all calls now (the master got SIGINT or SIGQUIT); gunicorn's own handler would lose them."""
        self.alive = False
        if self._state is not None:
            gevent.spawn(self._state.end_calls)

    def counts_request(self) -> bool:
        """Counts a request towards `max_requests`. Returns False when the worker ends: the connection must, too."""
        self.nr += 1
        if self.nr >= self.max_requests and self.alive:
            self.log.info("Autorestarting worker after current request.")
            self.alive = False
        return bool(self.alive)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: Exception) -> None:
        """Answers and logs a request that could not be read. Its text stays out of both."""
        if isinstance(exc, gevent.GreenletExit):
            return  # the worker is about to end
        error: GatewayError
        if isinstance(exc, http_errors.ParseException) and not isinstance(exc, _SERVER_FAULTS):
            status = _STATUSES.get(type(exc), 400)
            error = InvalidRequest("The request is not valid HTTP, or its headers are too long.")
            self.log.warning("Invalid request from ip=%s: %s", addr[0] if addr else "", type(exc).__name__)
        else:
            status = 500
            error = GatewayError("The server had an error while processing your request.")
            self.log.exception("Error handling request")
        request_id = f"req_{secrets.token_hex(12)}"
        body = msgspec.json.encode(error_body(error, request_id))
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nConnection: close\r\nContent-Type: application/json\r\n"
            f"X-Request-ID: {request_id}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        try:
            write_nonblock(client, head.encode() + body)  # type: ignore[no-untyped-call]
        except OSError:
            self.log.debug("The client of a refused request is gone.")

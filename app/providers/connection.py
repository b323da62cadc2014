"""One connection to a provider: a plain or TLS socket whose every wait has a limit and can be aborted.

Sockets are non-blocking and not gevent's own: a wait parks the greenlet on one event and one timer, which costs
half of what gevent's socket takes for the same, and works whether or not the process is monkey-patched. Limits are
absolute, in `time.monotonic` seconds. What fails raises an `OSError` (`ssl.SSLError` and `gaierror` are some) or
`TooSlow`; the transport translates.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
import time
from functools import partial
from typing import Any

import gevent
from gevent.hub import Waiter
from gevent.monkey import get_original
from gevent.socket import getaddrinfo

from app.errors import ClientGone
from app.providers.base import CancelToken

_BLOCK = 65_536
_READ, _WRITE = 1, 2
_Socket = get_original("socket", "socket")
_Address = tuple[int, Any]


class TooSlow(Exception):
    """The limit passed."""


class Connection:
    """A TCP connection. One greenlet uses it at a time; `abort` and `close` may come from any other."""

    def __init__(self, family: int) -> None:
        self._socket: Any = _Socket(family, socket.SOCK_STREAM)
        self._socket.setblocking(False)
        self._descriptor: int = self._socket.fileno()
        self._hub: Any = None
        self._readable: Any = None
        self._waiting = self._aborted = self._closed = False

    def connect(self, address: Any, limit: float) -> None:
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = self._socket.connect_ex(address)
        if code == errno.EINPROGRESS:
            self._wait(_WRITE, limit)
            code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))

    def send(self, data: bytes, limit: float) -> None:
        sent = self._socket.send(data)
        if sent < len(data):
            rest = memoryview(data)[sent:]
            while rest:
                self._wait(_WRITE, limit)
                try:
                    rest = rest[self._socket.send(rest) :]
                except BlockingIOError:
                    continue

    def receive(self, limit: float) -> bytes:
        """The next bytes, as many as there are; b"" when the other side closed."""
        while True:
            self._wait(_READ, limit)
            try:
                data: bytes = self._socket.recv(_BLOCK)
            except BlockingIOError:
                continue
            return data

    def is_stale(self) -> bool:
        """Whether an idle connection must not be used: closed, or bytes came that nobody asked for."""
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True

    def abort(self) -> None:
        """Ends the connection for both sides at once and wakes whoever waits on it. Never blocks or switches."""
        self._aborted = True
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # not connected yet, or not any more

    def close(self) -> None:
        self._closed = True
        if self._waiting:
            self.abort()  # the greenlet that waits then closes: its event still holds the descriptor
            return
        if self._readable is not None:
            self._readable.close()
            self._readable = None
        self._socket.close()

    def _wait(self, events: int, limit: float) -> None:
        """Parks the greenlet until the socket is ready."""
        if self._aborted or self._closed:
            raise ConnectionAbortedError(errno.ECONNABORTED, "aborted")
        left_s = limit - time.monotonic()
        if left_s <= 0:
            raise TooSlow
        hub = gevent.get_hub()
        if hub is not self._hub:
            # An event belongs to one thread's hub; a pooled connection may be taken by another thread.
            self._hub, self._readable = hub, hub.loop.io(self._descriptor, _READ)
        event = self._readable if events == _READ else hub.loop.io(self._descriptor, events)
        timer = hub.loop.timer(left_s)
        waiter = Waiter(hub)
        self._waiting = True
        event.start(waiter.switch, True)
        timer.start(waiter.switch, False)
        try:
            ready = waiter.get()
        finally:
            self._waiting = False
            timer.close()
            event.stop()
            if event is not self._readable:
                event.close()
            if self._closed:
                self.close()
        if not ready:
            raise TooSlow


class TlsConnection(Connection):
    """The same over TLS, with the records in memory: OpenSSL never touches the socket."""

    def __init__(self, family: int, context: ssl.SSLContext, host: str) -> None:
        super().__init__(family)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)

    def connect(self, address: Any, limit: float) -> None:
        super().connect(address, limit)
        while True:
            try:
                self._tls.do_handshake()
                return self._flush(limit)
            except ssl.SSLWantReadError:
                self._flush(limit)
                self._fill(limit)
            except ssl.SSLError:
                try:
                    self._flush(limit)  # the alert that tells the other side why
                except OSError:
                    pass
                raise

    def send(self, data: bytes, limit: float) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self._tls.write(rest) :]
            self._flush(limit)

    def receive(self, limit: float) -> bytes:
        while True:
            try:
                return self._tls.read(_BLOCK)
            except ssl.SSLWantReadError:
                self._flush(limit)
                if not self._fill(limit):
                    # No close_notify: HTTP's own framing tells whether anything is missing.
                    return b""
            except ssl.SSLZeroReturnError:
                return b""

    def is_stale(self) -> bool:
        return bool(self._incoming.pending) or super().is_stale()

    def _fill(self, limit: float) -> bool:
        data = super().receive(limit)
        if not data:
            self._incoming.write_eof()
            return False
        self._incoming.write(data)
        return True

    def _flush(self, limit: float) -> None:
        if self._outgoing.pending:
            super().send(self._outgoing.read(), limit)


def resolve(host: str, port: int, limit: float, cancel: CancelToken) -> list[_Address]:
    """The addresses of `host`, as (family, socket address). Raises `gaierror`, `TooSlow` and `ClientGone`."""
    for family, rest in ((socket.AF_INET, ()), (socket.AF_INET6, (0, 0))):
        try:
            socket.inet_pton(family, host)
        except OSError:
            continue
        return [(family, (host, port, *rest))]
    lookup = gevent.spawn(_look_up, host, port)
    cancel.on_cancel(partial(lookup.kill, block=False))
    lookup.join(max(limit - time.monotonic(), 0.001))
    cancel.on_cancel(None)
    if cancel.cancelled:
        raise ClientGone("The client hung up.")
    if not lookup.ready():
        lookup.kill(block=False)
        raise TooSlow
    found = lookup.value
    if isinstance(found, OSError):
        raise found
    addresses: list[_Address] = found
    return addresses


def _look_up(host: str, port: int) -> list[_Address] | OSError:
    """Runs in a greenlet of its own: an exception there would be printed, so that it is a result."""
    try:
        return [(entry[0], entry[4]) for entry in getaddrinfo(host, port, 0, socket.SOCK_STREAM)]
    except OSError as exc:
        return exc
    except UnicodeError:
        return socket.gaierror(socket.EAI_NONAME, "not a host name")

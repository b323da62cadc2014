"""HTTP/1.1 to one provider: pooled connections, four timeouts, and a close that really closes.

Our own small client on gevent sockets with llhttp's parser: one send, as few reads as the answer needs (0.1 ms a
call where urllib3 takes 0.8 and httpx 4.4). What a library would hide is decided here: an idle connection is
checked before use, and a reused one that fails before the first byte of the answer is replaced once.
"""

from __future__ import annotations

import errno
import math
import os
import socket as plain_socket
import ssl
import time
from _socket import getaddrinfo
from collections import deque
from contextlib import closing
from typing import Any, NoReturn
from urllib.parse import quote, urlsplit

import gevent
from gevent import socket
from gevent.lock import Semaphore
from gevent.ssl import SSLSocket

from app.config.gateway import Timeouts
from app.errors import ClientGone, ConfigError, UpstreamError, UpstreamTimeout, UpstreamUnavailable
from app.providers.base import CancelToken
from app.providers.http.exchange import Broken, Exchange

_HEADERS = {"Content-Type": "application/json", "User-Agent": "penstock"}
# The machine's or this process's: descriptors, ports and buffers. No provider is to blame.
_USED_UP = frozenset({errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM})
_SHORTEST_TRIP_S = 0.005
_OURS_ALONE = {"content-length", "transfer-encoding", "connection"}  # they say where a message ends


class HttpClient:
    """Calls to one base URL. `headers` are sent with every request. Raises `UpstreamError`s and `ClientGone`."""

    def __init__(
        self,
        *,
        provider: str,
        base_url: str,
        headers: dict[str, str],
        timeouts: Timeouts,
        max_connections: int,
        max_idle: int,
        ca_file: str | None = None,
    ) -> None:
        self.provider = provider
        self.timeouts = timeouts
        try:
            url = urlsplit(base_url)
            self._host = url.hostname or ""
            self._host.encode("idna")
            self._port = url.port or (443 if url.scheme == "https" else 80)
        except ValueError:
            raise ConfigError("base_url: expected a URL with a valid host and port") from None
        self._base_path = url.path.rstrip("/")
        self._tls = _tls_context(ca_file) if url.scheme == "https" else None
        self._headers = _header_lines({"Host": url.netloc, **_HEADERS}, headers)
        self._heads: dict[str, bytes] = {}
        self._idle: deque[Any] = deque(maxlen=max_idle)
        self._max_idle = max_idle
        self._slots = Semaphore(max_connections)
        self._max_connections = max_connections
        self._opened = self._reused = 0
        self._round_trip_s = math.inf  # at the most: the least that a connection took to be made

    def post(self, path: str, body: bytes, *, deadline: float, cancel: CancelToken) -> Exchange:
        """Sends `body` to `path` and returns when the answer's headers are there."""
        head = self._heads.get(path)
        if head is None:
            head = self._heads[path] = b"POST %b HTTP/1.1\r\n%bContent-Length: " % (self._target(path), self._headers)
        message = b"%b%d\r\n\r\n%b" % (head, len(body), body)
        if not self._slots.acquire(blocking=False) and not self._slots.acquire(timeout=self._connect_s(deadline)):
            raise self._saturated()
        try:
            return self._exchange(message, deadline, cancel)
        except BaseException:
            self._slots.release()
            raise

    def get_status(self, path: str, *, timeout_s: float) -> int:
        """The status that a GET is answered with, over a connection of its own: calls never wait for it, nor it for
        them. Raises `UpstreamError` when there is none. The body is not read."""
        deadline, cancel = time.monotonic() + timeout_s, CancelToken()
        message = b"GET %b HTTP/1.1\r\n%b\r\n" % (self._target(path), self._headers)
        sock = self._connect(timeout_s, deadline + timeout_s, cancel)
        exchange = Exchange(
            sock,
            provider=self.provider,
            timeouts=self.timeouts,
            deadline=deadline,
            cancel=cancel,
            give_back=lambda used, _: used.close(),
        )
        try:
            exchange.begin(message)
        except Broken as exc:
            self._fail(exc, exchange)
        with closing(exchange):
            return exchange.status

    def _target(self, path: str) -> bytes:
        return quote(f"{self._base_path}{path}", safe="/%:@!$&'()*+,;=~").encode()

    def stats(self) -> dict[str, Any]:
        active = self._max_connections - self._slots.counter
        return {"idle": len(self._idle), "active": active, "opened": self._opened, "reused": self._reused}

    def _give_back(self, sock: Any, reusable: bool) -> None:
        """The end of an exchange: keeps `sock` for the next one, or closes it."""
        self._slots.release()
        if reusable and len(self._idle) < self._max_idle:
            self._idle.append(sock)
        else:
            sock.close()

    def _exchange(self, message: bytes, deadline: float, cancel: CancelToken) -> Exchange:
        sock = self._pooled()
        if sock is not None:
            self._reused += 1
            exchange = self._exchange_on(sock, deadline, cancel)
            began = time.monotonic()
            try:
                exchange.begin(message)
                return exchange
            except Broken as exc:
                # Closed by the provider just as it was used: then the answer is here within a round trip. Later, the
                # provider has read the request, and bills it: that attempt is over.
                if exchange.answered or (exchange.billable and time.monotonic() - began > self._round_trip_s):
                    self._fail(exc, exchange)
        sock = self._connect(self._connect_s(deadline), deadline, cancel)
        exchange = self._exchange_on(sock, deadline, cancel)
        try:
            exchange.begin(message)
        except Broken as exc:
            self._fail(exc, exchange)
        return exchange

    def _exchange_on(self, sock: Any, deadline: float, cancel: CancelToken) -> Exchange:
        return Exchange(
            sock,
            provider=self.provider,
            timeouts=self.timeouts,
            deadline=deadline,
            cancel=cancel,
            give_back=self._give_back,
        )

    def _pooled(self) -> Any:
        while self._idle:
            sock = self._idle.pop()
            try:
                # Readable while idle: closed by the provider, or in a state that we do not understand.
                sock._sock.recv(1, plain_socket.MSG_PEEK | plain_socket.MSG_DONTWAIT)
            except BlockingIOError:
                return sock
            except OSError:
                pass
            sock.close()
        return None

    def _connect(self, timeout_s: float, deadline: float, cancel: CancelToken) -> Any:
        name = self.provider
        limit = gevent.Timeout(timeout_s)
        began = time.monotonic()
        resolving = _Resolving(self._host, self._port)
        try:
            with limit:
                sock = self._dial(resolving, cancel)
        except gevent.Timeout as exc:
            if exc is not limit:
                raise
            if not resolving.began:
                raise self._saturated() from exc
            kind = "timeout_total" if deadline - time.monotonic() <= 0.005 else "timeout_connect"
            raise UpstreamTimeout(
                f"The provider {name} could not be reached in time.", provider=name, kind=kind
            ) from exc
        except OSError as exc:
            if cancel.cancelled:
                raise ClientGone("The client hung up.") from exc
            if exc.errno in _USED_UP or _no_descriptor_left():
                raise self._saturated() from exc
            if isinstance(exc, socket.gaierror):
                raise UpstreamUnavailable(
                    f"The provider {name}'s host is unknown.", provider=name, kind="resolve"
                ) from exc
            if isinstance(exc, ssl.SSLError):
                raise UpstreamError(f"No secure connection to the provider {name}.", provider=name, kind="tls") from exc
            raise UpstreamUnavailable(f"The provider {name} cannot be reached.", provider=name, kind="connect") from exc
        finally:
            cancel.on_cancel(None)
        self._opened += 1
        self._round_trip_s = min(self._round_trip_s, max(time.monotonic() - began, _SHORTEST_TRIP_S))
        return sock

    def _connect_s(self, deadline: float) -> float:
        return min(self.timeouts.connect_s, max(deadline - time.monotonic(), 0.001))

    def _saturated(self) -> UpstreamUnavailable:
        return UpstreamUnavailable(
            f"Too many calls to the provider {self.provider} at once.", provider=self.provider, kind="saturated"
        )

    def _dial(self, resolving: _Resolving, cancel: CancelToken) -> Any:
        """A connection to the first of the host's addresses that takes one. Raises `OSError`."""
        failed = OSError("the host has no address")
        for family, kind, protocol, _, address in resolving.addresses():
            sock: Any = socket.socket(family, kind, protocol)
            try:
                cancel.on_cancel(sock.close)
                sock.connect(address)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if self._tls is None:
                    return sock
                # Wrapped before it is shaken: a handshake that fails must leave us the one object to close.
                sock = SSLSocket(
                    sock=sock, server_hostname=self._host, do_handshake_on_connect=False, _context=self._tls
                )
                cancel.on_cancel(sock.close)
                sock.do_handshake()
                return sock
            except BaseException as exc:
                sock.close()
                if not isinstance(exc, OSError) or isinstance(exc, ssl.SSLError) or cancel.cancelled:
                    raise
                failed = exc
        raise failed

    def _fail(self, exc: Broken, exchange: Exchange) -> NoReturn:
        name, billable = self.provider, exchange.billable
        what, kind = (
            ("sent no valid answer", exc.kind) if exc.kind == "bad_body" else ("broke the connection", "closed")
        )
        raise UpstreamError(f"The provider {name} {what}.", provider=name, kind=kind, billable=billable) from exc


class _Resolving:
    """A look-up in one of the hub's threads. `began`: a thread was free to take it on."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self.began = False

    def addresses(self) -> list[Any]:
        """Raises `OSError`."""
        found: list[Any] | OSError = gevent.get_hub().threadpool.apply(self._look_up)
        if isinstance(found, OSError):
            raise found
        return found

    def _look_up(self) -> list[Any] | OSError:
        self.began = True
        try:
            return getaddrinfo(self._host, self._port, 0, socket.SOCK_STREAM)
        except OSError as exc:
            return exc  # raised in the thread, the hub would print it


def _no_descriptor_left() -> bool:
    """Whether this process can open no more: a resolver does not say that this is why it failed."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return True
    return False


def _header_lines(defaults: dict[str, str], configured: dict[str, str]) -> bytes:
    """The headers as they are sent; a configured one replaces the default of that name. Raises `ConfigError`."""
    sent = {name.lower(): (name, value) for name, value in defaults.items()}
    for name, value in configured.items():
        if name.lower() in _OURS_ALONE or not value.isascii() or not value.isprintable():
            raise ConfigError(f"headers.{name}: not a header that can be set, or not printable ASCII")
        sent[name.lower()] = (name, value)
    return "".join(f"{name}: {value}\r\n" for name, value in sent.values()).encode("ascii")


def _tls_context(ca_file: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError:  # ssl.SSLError is one
        raise ConfigError("ca_file: expected a readable PEM file with certificates") from None

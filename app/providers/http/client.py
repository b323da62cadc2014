"""HTTP/1.1 client for one provider: pooled connections, four time-outs, and a close that really closes.

It stands on gevent sockets with llhttp's parser: one send, as few reads as the response needs (0.1 ms a call where
urllib3 takes 0.8 and httpx 4.4). It decides what a library would hide: an idle connection is checked before use, and
a reused one that fails before the first byte of the response is replaced once.
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
from collections.abc import Mapping
from contextlib import closing
from typing import Any, NoReturn
from urllib.parse import quote, urlsplit

import gevent
from gevent import socket
from gevent.lock import Semaphore
from gevent.ssl import SSLSocket

from app.config.providers import Timeouts
from app.errors import ClientGone, ConfigError, UpstreamError, UpstreamTimeout, UpstreamUnavailable
from app.providers.base import CancelToken
from app.providers.base_urls import endpoint_url
from app.providers.http.exchange import Exchange, ExchangeFailed

_DEFAULT_HEADERS = {"Content-Type": "application/json", "User-Agent": "penstock"}
# The machine or this process has run out of descriptors, ports or buffers. No provider is to blame.
_OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM})
_MIN_ROUND_TRIP_S = 0.005
_LIST_HEADERS = frozenset({b"anthropic-beta", b""})
_CALLERS_HEADERS = frozenset({b"anthropic-version"})  # the body is of the version that its author names
_FRAMING_HEADERS = {"content-length", "transfer-encoding", "connection"}  # they say where a message ends
_SAFE_IN_PATHS = "/%:@!$&'()*+,;=~"  # escapes of the configuration's stay what they are


class HttpClient:
    """A client of one base URL (`providers.base_urls`). `headers` and `query` are sent with every request.

    Raises `UpstreamError`s and `ClientGone`.
    """

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
        kind: str = "openai",
        query: Mapping[str, str] | None = None,
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
        self._kind = kind
        self._base_path = url.path
        self._query = query or {}
        self._tls = _tls_context(ca_file) if url.scheme == "https" else None
        self._headers = _header_lines({"Host": url.netloc, **_DEFAULT_HEADERS}, headers)
        self._request_heads: dict[tuple[str, str], bytes] = {}  # by path and model, both the configuration's
        self._idle: deque[Any] = deque(maxlen=max_idle)
        self._max_idle = max_idle
        self._slots = Semaphore(max_connections)
        self._max_connections = max_connections
        self._opened = self._reused = 0
        self._round_trip_s = math.inf  # an upper bound: the least time that a connection took to be made

    def post(
        self, path: str, body: bytes, *, deadline: float, cancel: CancelToken, model: str = "", headers: bytes = b""
    ) -> Exchange:
        """Sends `body` to `path`, and returns when the response's headers are there.

        `model` is the provider's name for it, which the base URL may have a place for. `headers` are further ones, as
        lines that end in CRLF: they replace the client's own of the same name, but for Anthropic's (`_combined`).
        """
        head = self._request_heads.get((path, model))
        if head is None:
            head = self._request_heads[path, model] = b"POST %b HTTP/1.1\r\n%bContent-Length: " % (
                self._request_target(path, model),
                self._headers,
            )
        if headers:
            head, headers = _combined(head, headers)
        message = b"%b%d\r\n%b\r\n%b" % (head, len(body), headers, body)
        if not self._slots.acquire(blocking=False) and not self._slots.acquire(
            timeout=self._connect_timeout_s(deadline)
        ):
            raise self._saturated_error()
        try:
            return self._start_exchange(message, deadline, cancel)
        except BaseException:
            self._slots.release()
            raise

    def get_status(self, path: str, *, timeout_s: float) -> int:
        """Returns the status that a GET is answered with. The body is not read.

        The request has a connection of its own: calls never wait for it, nor it for them. Raises `UpstreamError` when
        there is no response.
        """
        deadline, cancel = time.monotonic() + timeout_s, CancelToken()
        message = b"GET %b HTTP/1.1\r\n%b\r\n" % (self._request_target(path), self._headers)
        sock = self._connect(timeout_s, deadline + timeout_s, cancel)
        exchange = Exchange(
            sock,
            provider=self.provider,
            timeouts=self.timeouts,
            deadline=deadline,
            cancel=cancel,
            release=lambda used, _: used.close(),
        )
        try:
            exchange.start(message)
        except ExchangeFailed as exc:
            self._raise_upstream_error(exc, exchange)
        with closing(exchange):
            return exchange.status

    def _request_target(self, path: str, model: str = "") -> bytes:
        target, mark, query = endpoint_url(self._kind, self._base_path, path, model=model, query=self._query).partition(
            "?"
        )
        return f"{quote(target, safe=_SAFE_IN_PATHS)}{mark}{quote(query, safe=f'{_SAFE_IN_PATHS}?')}".encode()

    def stats(self) -> dict[str, Any]:
        """Returns the pool's counts of connections: idle, active, and opened and reused so far."""
        active = self._max_connections - self._slots.counter
        return {"idle": len(self._idle), "active": active, "opened": self._opened, "reused": self._reused}

    def _release(self, sock: Any, reusable: bool) -> None:
        """Ends an exchange: keeps `sock` for the next one, or closes it."""
        self._slots.release()
        if reusable and len(self._idle) < self._max_idle:
            self._idle.append(sock)
        else:
            sock.close()

    def _start_exchange(self, message: bytes, deadline: float, cancel: CancelToken) -> Exchange:
        sock = self._take_idle()
        if sock is not None:
            self._reused += 1
            exchange = self._new_exchange(sock, deadline, cancel)
            started = time.monotonic()
            try:
                exchange.start(message)
                return exchange
            except ExchangeFailed as exc:
                # Closed by the provider just as it was used: then that shows within a round trip. Later, the
                # provider has read the request, and bills it: that attempt is over.
                if exchange.has_response or (exchange.billable and time.monotonic() - started > self._round_trip_s):
                    self._raise_upstream_error(exc, exchange)
        sock = self._connect(self._connect_timeout_s(deadline), deadline, cancel)
        exchange = self._new_exchange(sock, deadline, cancel)
        try:
            exchange.start(message)
        except ExchangeFailed as exc:
            self._raise_upstream_error(exc, exchange)
        return exchange

    def _new_exchange(self, sock: Any, deadline: float, cancel: CancelToken) -> Exchange:
        return Exchange(
            sock,
            provider=self.provider,
            timeouts=self.timeouts,
            deadline=deadline,
            cancel=cancel,
            release=self._release,
        )

    def _take_idle(self) -> Any:
        """Returns the connection that was used last and is still open; None if there is none."""
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
        started = time.monotonic()
        lookup = _AddressLookup(self._host, self._port)
        try:
            with limit:
                sock = self._dial(lookup, cancel)
        except gevent.Timeout as exc:
            if exc is not limit:
                raise
            if not lookup.started:
                raise self._saturated_error() from exc
            kind = "timeout_total" if deadline - time.monotonic() <= 0.005 else "timeout_connect"
            raise UpstreamTimeout(
                f"The provider {name} could not be reached in time.", provider=name, kind=kind
            ) from exc
        except OSError as exc:
            if cancel.cancelled:
                raise ClientGone("The client hung up.") from exc
            if exc.errno in _OUT_OF_RESOURCES or _is_out_of_descriptors():
                raise self._saturated_error() from exc
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
        self._round_trip_s = min(self._round_trip_s, max(time.monotonic() - started, _MIN_ROUND_TRIP_S))
        return sock

    def _connect_timeout_s(self, deadline: float) -> float:
        return min(self.timeouts.connect_s, max(deadline - time.monotonic(), 0.001))

    def _saturated_error(self) -> UpstreamUnavailable:
        return UpstreamUnavailable(
            f"Too many calls to the provider {self.provider} at once.", provider=self.provider, kind="saturated"
        )

    def _dial(self, lookup: _AddressLookup, cancel: CancelToken) -> Any:
        """Connects to the first of the host's addresses that accepts. Raises `OSError`."""
        failed = OSError("the host has no address")
        for family, kind, protocol, _, address in lookup.addresses():
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

    def _raise_upstream_error(self, exc: ExchangeFailed, exchange: Exchange) -> NoReturn:
        name, billable = self.provider, exchange.billable
        what, kind = (
            ("sent no valid answer", exc.kind) if exc.kind == "bad_body" else ("broke the connection", "closed")
        )
        raise UpstreamError(f"The provider {name} {what}.", provider=name, kind=kind, billable=billable) from exc


class _AddressLookup:
    """A DNS look-up in one of the hub's threads. `started`: a thread was free to run it."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self.started = False

    def addresses(self) -> list[Any]:
        """Returns the host's addresses, as `getaddrinfo` does. Raises `OSError`."""
        result: list[Any] | OSError = gevent.get_hub().threadpool.apply(self._look_up)
        if isinstance(result, OSError):
            raise result
        return result

    def _look_up(self) -> list[Any] | OSError:
        self.started = True
        try:
            return getaddrinfo(self._host, self._port, 0, socket.SOCK_STREAM)
        except OSError as exc:
            return exc  # raised in the thread, the hub would print it


def _is_out_of_descriptors() -> bool:
    """Returns True if this process can open no more files: a resolver does not say that this is why it failed."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return True
    return False


def _header_lines(defaults: dict[str, str], configured: dict[str, str]) -> bytes:
    """Returns the headers as they are sent; a configured one replaces its default. Raises `ConfigError`."""
    sent = {name.lower(): (name, value) for name, value in defaults.items()}
    for name, value in configured.items():
        if name.lower() in _FRAMING_HEADERS or not value.isascii() or not value.isprintable():
            raise ConfigError(f"headers.{name}: not a header that can be set, or not printable ASCII")
        sent[name.lower()] = (name, value)
    return "".join(f"{name}: {value}\r\n" for name, value in sent.values()).encode("ascii")


def _combined(head: bytes, further: bytes) -> tuple[bytes, bytes]:
    """Returns `head` without the lines that `further` replaces, and `further` without those that it may not replace.

    A configured header of Anthropic's stays (a workspace, say), but for the version. Of a list both are sent.
    """
    own = {_name(line) for line in head.split(b"\r\n")} - _CALLERS_HEADERS - _LIST_HEADERS
    fixed = {name for name in own if name.startswith(b"anthropic-")}
    lines = [line for line in further.split(b"\r\n") if _name(line) not in fixed]
    replaced = {_name(line) for line in lines} - _LIST_HEADERS
    return b"\r\n".join(line for line in head.split(b"\r\n") if _name(line) not in replaced), b"\r\n".join(lines)


def _name(line: bytes) -> bytes:
    return line.partition(b":")[0].lower()


def _tls_context(ca_file: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError:  # ssl.SSLError is one
        raise ConfigError("ca_file: expected a readable PEM file with certificates") from None

"""Webhook sender: delivers a signed callback when a job has ended, to public or explicitly allowed addresses only.

The signature is that of Standard Webhooks, which OpenAI's SDKs verify (`client.webhooks.unwrap`): headers `webhook-id`,
`webhook-timestamp` and `webhook-signature: v1,<base64 of HMAC-SHA256 over "id.timestamp.body">`.

A name is resolved once, each of its addresses is checked, and the connection goes to the address that was checked: a
name that changes its mind in between changes nothing (docs/clients.md, bug 8). Redirects are not followed.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import socket
import ssl
from collections.abc import Callable
from contextlib import closing
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import gevent
from gevent.monkey import get_original
from gevent.threadpool import ThreadPool

from app.errors import CallbackUndelivered, InvalidRequest

_TIMEOUT_S = 10.0  # of one wait
_TOTAL_S = 20.0  # of one delivery
_RESOLVER_THREADS = 4
_NAT64 = ip_network("64:ff9b::/96")
_MAX_URL_CHARS = 2048
_PORTS = {"http": 80, "https": 443}
Resolve = Callable[[str, int], list[str]]  # host and port → addresses


class _Endpoint(NamedTuple):
    """A callback URL in its parts; `target` is the path with the query."""

    scheme: str
    host: str
    port: int
    target: str


class CallbackSender:
    """`allow` names hosts and networks besides public addresses; `secret` signs. Without one callbacks are off."""

    def __init__(self, *, secret: str | None, allow: tuple[str, ...], resolve: Resolve | None = None) -> None:
        self._key = None if secret is None else signing_key(secret)
        self._hosts, self._networks = _hosts_and_networks(allow)
        self._resolve = resolve or _Resolver()

    def check(self, url: str) -> str:
        """Returns `url` if a callback may go there, as far as the URL itself tells. Raises `InvalidRequest`."""
        self._signing_key()
        self._endpoint(url)
        return url

    def deliver(self, url: str, event_id: str, body: bytes, *, now: float) -> None:
        """Posts `body`. Raises `CallbackUndelivered`, and `InvalidRequest` for a URL that callbacks must not go to."""
        endpoint = self._endpoint(url)
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "penstock",
            "Connection": "close",
            **signature(self._signing_key(), event_id, int(now), body),
        }
        limit = gevent.Timeout(_TOTAL_S)
        try:
            with limit, closing(_PinnedConnection(endpoint)) as connection:
                connection.address = self._address(endpoint)
                connection.request("POST", endpoint.target, body, headers)
                status = connection.getresponse().status
        except gevent.Timeout as exc:
            if exc is not limit:
                raise
            raise CallbackUndelivered("The callback took too long.") from None
        except (OSError, http.client.HTTPException, ValueError) as exc:
            raise CallbackUndelivered(f"The callback failed: {type(exc).__name__}.") from None
        if not 200 <= status < 300:
            raise CallbackUndelivered(f"The callback was answered with {status}.")

    def _signing_key(self) -> bytes:
        if self._key is None:
            raise _refused("callbacks are off: the operator has set no CALLBACK_SECRET")
        return self._key

    def _endpoint(self, url: str) -> _Endpoint:
        if len(url) > _MAX_URL_CHARS or not url.isascii() or not url.isprintable() or " " in url:
            raise _refused("expected an http or https URL")
        try:
            parts = urlsplit(url)
            port = parts.port or _PORTS.get(parts.scheme, 0)
        except ValueError:
            raise _refused("expected an http or https URL") from None
        host = parts.hostname or ""
        if parts.scheme not in _PORTS or not host or parts.username is not None or parts.password is not None:
            raise _refused("expected an http or https URL without a user name")
        try:
            address = ip_address(host)
        except ValueError:
            pass
        else:
            if not self._is_allowed(host, str(address)):
                raise _refused("the address is not public")
        return _Endpoint(parts.scheme, host, port, (parts.path or "/") + (f"?{parts.query}" if parts.query else ""))

    def _address(self, endpoint: _Endpoint) -> str:
        """The address to connect to. Every address of the name must be one that callbacks may go to."""
        try:
            addresses = self._resolve(endpoint.host, endpoint.port)
        except OSError:
            raise CallbackUndelivered("The callback's host has no address.") from None
        if not addresses:
            raise CallbackUndelivered("The callback's host has no address.")
        for address in addresses:
            if not self._is_allowed(endpoint.host, address):
                raise _refused("the host's address is not public")
        return addresses[0]

    def _is_allowed(self, host: str, address: str) -> bool:
        if host.lower() in self._hosts:
            return True
        ip = ip_address(address.partition("%")[0])
        if ip.version == 6:
            # An IPv4 address that is embedded in an IPv6 one is judged as the IPv4 address.
            embedded = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
            ip = embedded or (IPv4Address(int(ip) & 0xFFFF_FFFF) if ip in _NAT64 else ip)
        if any(ip.version == network.version and ip in network for network in self._networks):
            return True
        return ip.is_global and not ip.is_multicast


def signing_key(secret: str) -> bytes:
    """Returns the bytes to sign with: a `whsec_…` secret is base64, anything else is taken as it is."""
    if secret.startswith("whsec_"):
        return base64.b64decode(secret.removeprefix("whsec_"))
    return secret.encode()


def signature(key: bytes, event_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Returns the headers of Standard Webhooks."""
    signed = b"%b.%d.%b" % (event_id.encode(), timestamp, body)
    digest = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    return {"webhook-id": event_id, "webhook-timestamp": str(timestamp), "webhook-signature": f"v1,{digest}"}


class _PinnedConnection(http.client.HTTPConnection):
    """A connection to `address`, whatever the host's name resolves to now; TLS is verified for the name."""

    address: str

    def __init__(self, endpoint: _Endpoint) -> None:
        host = endpoint.host
        super().__init__(f"[{host}]" if ":" in host else host, endpoint.port, timeout=_TIMEOUT_S)
        self._server_name = host
        self._secure = endpoint.scheme == "https"

    def connect(self) -> None:
        plain = socket.create_connection((self.address, self.port), _TIMEOUT_S)
        self.sock = plain
        if self._secure:
            self.sock = ssl.create_default_context().wrap_socket(plain, server_hostname=self._server_name)


class _Resolver:
    """A resolver with threads of its own: those of the process are for providers' names, and callers choose ours."""

    def __init__(self) -> None:
        self._threads: ThreadPool | None = None  # made by the process that uses it, not by one that forks

    def __call__(self, host: str, port: int) -> list[str]:
        if self._threads is None:
            self._threads = ThreadPool(_RESOLVER_THREADS)
        # With all of them busy it waits for one, like for an answer: as long as its caller lets it.
        lookup: Any = self._threads.spawn(_resolve_blocking, host, port)
        addresses: list[str] = lookup.get()
        return addresses


def _resolve_blocking(host: str, port: int) -> list[str]:
    getaddrinfo = get_original("socket", "getaddrinfo")  # the patched one would use the threads of the process
    return [str(row[4][0]) for row in getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def _hosts_and_networks(rows: tuple[str, ...]) -> tuple[frozenset[str], tuple[IPv4Network | IPv6Network, ...]]:
    hosts, networks = [], []
    for row in rows:
        try:
            networks.append(ip_network(row))
        except ValueError:
            hosts.append(row.lower())
    return frozenset(hosts), tuple(networks)


def _refused(reason: str) -> InvalidRequest:
    return InvalidRequest(f"`callback_url` cannot be used: {reason}.", param="callback_url")

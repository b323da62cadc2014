"""Redis by its URL: at an address, or wherever its Sentinels say that the master is.

`sentinel://[[user]:password@]host[:port][,host[:port]…]/service[/db][?sentinel_password=…]`: the password is the
servers'; that of the Sentinels themselves, if they have one, is named apart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, unquote

import redis
from redis.backoff import NoBackoff
from redis.connection import Connection, ConnectionPool
from redis.retry import Retry
from redis.sentinel import Sentinel

from app.errors import ConfigError

_PORT = 26379
# Of one Sentinel; the next one is asked then. A caller waits for them all before it learns that nobody knows.
_ASK_S = 0.3
_EXPECTED = "environment: REDIS_URL: expected sentinel://[:password@]host:port[,host:port…]/service[/db]"


def connector(url: str, **options: Any) -> tuple[type[Connection], Callable[[], Connection]]:
    """The kind of connection that `url` means, and how a new one is made; with redis-py's `options`."""
    if not url.startswith("sentinel:"):
        # The pool only parses the URL; no connection of it is ever used.
        pool = ConnectionPool.from_url(url, **options)
        if url.startswith("unix:"):
            for name in ("socket_connect_timeout", "socket_keepalive"):
                pool.connection_kwargs.pop(name, None)
        return pool.connection_class, lambda: pool.connection_class(**pool.connection_kwargs)
    sentinels, service, login = _parsed(url)
    return _ToMaster, lambda: _ToMaster(sentinels, service, **login, **options)


def client(url: str, **options: Any) -> redis.Redis:
    """redis-py's own client, for libraries that want one."""
    if not url.startswith("sentinel:"):
        return redis.Redis.from_url(url, **options)
    sentinels, service, login = _parsed(url)
    found: redis.Redis = sentinels.master_for(service, **login, **options)
    return found


def without_secrets(url: str) -> str:
    """Where it leads, to be shown: no user, no password, no options (which may be passwords, too)."""
    scheme, _, rest = url.partition("://")
    place, _, options = rest.partition("?")
    if "@" in options:  # of a password, wherever it was meant to stand
        return f"{scheme}://***"
    return f"{scheme}://{place.rpartition('@')[2].partition('#')[0]}"


class _ToMaster(Connection):
    """A connection that asks for the master's address each time it connects."""

    def __init__(self, sentinels: Sentinel, service: str, **options: Any) -> None:
        super().__init__(**options)
        self._sentinels = sentinels
        self._service = service

    def connect(self) -> None:
        if not self.is_connected:
            self.host, self.port = self._sentinels.discover_master(self._service)
        super().connect()


def _parsed(url: str) -> tuple[Sentinel, str, dict[str, Any]]:
    # The URL may hold a password: it is not repeated.
    # Not by urlsplit, which takes several addresses for one, and on some Pythons for a wrong one.
    rest, _, query = url.partition("://")[2].partition("?")
    servers, _, path = rest.partition("/")
    login, _, addresses = servers.rpartition("@")
    user, _, password = login.partition(":")
    service, _, db = path.strip("/").partition("/")
    own = parse_qs(query).get("sentinel_password", [None])[0]
    try:
        hosts = [_address(address) for address in addresses.split(",")]
        options = {"username": unquote(user) or None, "password": unquote(password) or None, "db": int(db or 0)}
    except ValueError:
        raise ConfigError(_EXPECTED) from None
    if not service:
        raise ConfigError(_EXPECTED)
    asked = {
        "socket_timeout": _ASK_S,
        "socket_connect_timeout": _ASK_S,
        "retry": Retry(NoBackoff(), 0),
        "password": own,
    }
    return Sentinel(hosts, sentinel_kwargs=asked), unquote(service), options


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    host = host.strip("[]") if colon else text.strip("[]")
    if not host:
        raise ValueError("no host")
    return host, int(port) if colon else _PORT

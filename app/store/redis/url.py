"""REDIS_URL: connections to the address that it names, or to the master that its Sentinels name.

`sentinel://[[user]:password@]host[:port][,host[:port]…]/service[/db][?sentinel_password=…]`: `password` is the
servers', `sentinel_password` that of the Sentinels themselves.
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
# For one Sentinel; then the next one is asked. A caller waits for all of them before it learns that none knows.
_SENTINEL_TIMEOUT_S = 0.3
_EXPECTED = "environment: REDIS_URL: expected sentinel://[:password@]host:port[,host:port…]/service[/db]"


def connector(url: str, **options: Any) -> tuple[type[Connection], Callable[[], Connection]]:
    """Returns the class of connection for `url`, and a function that makes a new one with redis-py's `options`."""
    if not url.startswith("sentinel:"):
        # The pool only parses the URL; no connection of it is ever used.
        pool = ConnectionPool.from_url(url, **options)
        if url.startswith("unix:"):
            for name in ("socket_connect_timeout", "socket_keepalive"):
                pool.connection_kwargs.pop(name, None)
        return pool.connection_class, lambda: pool.connection_class(**pool.connection_kwargs)
    sentinels, service, login = _parsed(url)
    return _MasterConnection, lambda: _MasterConnection(sentinels, service, **login, **options)


def redis_py_client(url: str, **options: Any) -> redis.Redis:
    """Returns redis-py's own client, for libraries that want one."""
    if not url.startswith("sentinel:"):
        return redis.Redis.from_url(url, **options)
    sentinels, service, login = _parsed(url)
    found: redis.Redis = sentinels.master_for(service, **login, **options)
    return found


def without_secrets(url: str) -> str:
    """Returns `url` fit to be shown: without user, password and options (which may be passwords, too)."""
    scheme, _, rest = url.partition("://")
    place, _, options = rest.partition("?")
    if "@" in options:  # part of a password, wherever it was meant to stand
        return f"{scheme}://***"
    return f"{scheme}://{place.rpartition('@')[2].partition('#')[0]}"


class _MasterConnection(Connection):
    """A connection that asks the Sentinels for the master's address each time it connects."""

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
    sentinel_options = {
        "socket_timeout": _SENTINEL_TIMEOUT_S,
        "socket_connect_timeout": _SENTINEL_TIMEOUT_S,
        "retry": Retry(NoBackoff(), 0),
        "password": own,
    }
    return Sentinel(hosts, sentinel_kwargs=sentinel_options), unquote(service), options


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    host = host.strip("[]") if colon else text.strip("[]")
    if not host:
        raise ValueError("no host")
    return host, int(port) if colon else _PORT

"""Redis client: commands, pipelines and scripts, with deadlines, so that a dead Redis costs milliseconds, not minutes.

Greenlets share one connection (`store.redis.multiplexed`); callers that cannot take one from a pool
(`store.redis.pool`).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import redis
from gevent import get_hub
from gevent.monkey import is_module_patched
from redis.connection import SSLConnection

from app.errors import StoreUnavailable
from app.store.redis.keys import READY
from app.store.redis.multiplexed import MultiplexedConnection
from app.store.redis.pool import ConnectionPool
from app.store.redis.protocol import Arg
from app.store.redis.url import connector

__all__ = ["Arg", "Redis", "Script"]

_LUA = Path(__file__).with_name("lua")
# Errors of ours, by their first word. With any other one (BUSY, READONLY, MASTERDOWN, NOAUTH, …) Redis cannot serve,
# and the same command may be sent again.
_OUR_ERRORS = frozenset({"ERR", "WRONGTYPE", "NOSCRIPT", "EXECABORT", "BUSYGROUP", "BUSYKEY", "CROSSSLOT"})
# Up to Redis 6 the error of a script has such a word only somewhere inside.
_REFUSALS = ("OOM command not allowed", "READONLY ", "MISCONF ", "NOREPLICAS ", "MASTERDOWN ", "CLUSTERDOWN ")
# Refusals that a new connection would meet as well. After any other one the address may lead to another Redis by now.
_REFUSED_ON_EVERY_CONNECTION = frozenset({"OOM", "BUSY"})
# After a failure, calls fail at once for this long instead of each waiting for its own timeout.
_FAIL_FAST_S = 0.25
_READY_MS = 10_000
# Commands that may wait inside Redis, or change the state of the connection: on a shared one every caller behind them
# would wait, or get a wrong reply.
_NOT_SHARED = frozenset(
    {
        "XREAD",
        "XREADGROUP",
        "BLPOP",
        "BRPOP",
        "BLMOVE",
        "BLMPOP",
        "BRPOPLPUSH",
        "BZPOPMIN",
        "BZPOPMAX",
        "BZMPOP",
        "WAIT",
        "WAITAOF",
        "SUBSCRIBE",
        "PSUBSCRIBE",
        "SSUBSCRIBE",
        "MONITOR",
        "MULTI",
        "WATCH",
        "SELECT",
        "CLIENT",
    }
)


class Redis:
    """Commands and scripts on one Redis.

    Replies are bytes, ints, None and lists of them (RESP2). Raises `StoreUnavailable` when Redis cannot be reached,
    does not answer in time, or refuses (loading, busy, out of memory, read-only, …); after most refusals its address
    is looked up again. A command whose connection broke is sent once more on a new one: anything that must not run
    twice has to be a script that notices.
    """

    def __init__(
        self,
        url: str,
        *,
        socket_timeout_s: float = 2.0,
        connect_timeout_s: float = 1.0,
        max_connections: int = 64,
        shared: bool | None = None,
    ) -> None:
        """`shared`: one connection for all greenlets; by default wherever sockets are gevent's and have no TLS."""
        kind, self._create = connector(
            url,
            protocol=2,
            socket_timeout=socket_timeout_s,
            socket_connect_timeout=connect_timeout_s,
            socket_keepalive=True,
            health_check_interval=0,
        )
        self._timeout_s = socket_timeout_s
        self._pool = ConnectionPool(self._create, timeout_s=socket_timeout_s, max_connections=max_connections)
        gevents = is_module_patched("socket") and not issubclass(kind, SSLConnection)
        self._shared = gevents if shared is None else shared
        self._multiplexed: MultiplexedConnection | None = None
        self._down_until = 0.0

    def execute(self, *args: Arg) -> Any:
        """Runs one command and returns its reply."""
        return self._execute((args,), shared=self._shared and args[0] not in _NOT_SHARED)

    def pipeline(self, commands: Sequence[tuple[Arg, ...]]) -> list[Any]:
        """Runs commands in one round trip (not atomically) and returns their replies in order."""
        if len(commands) < 2:
            return [self.execute(*command) for command in commands]
        replies: list[Any] = self._execute(commands, shared=self._shared)
        return replies

    def script(self, *names: str) -> Script:
        """Returns the script `lua/<name>.lua`; of several names, the files one after the other."""
        return Script(self, "".join((_LUA / f"{name}.lua").read_text(encoding="utf-8") for name in names))

    def ping(self) -> None:
        """Raises `StoreUnavailable` unless Redis answers and accepts writes."""
        self.execute("SET", READY, 1, "PX", _READY_MS)

    def memory(self) -> tuple[int, int]:
        """Returns the bytes in use and the most that it may use (0: no bound)."""
        info = dict(line.split(b":", 1) for line in self.execute("INFO", "memory").split(b"\r\n") if b":" in line)
        return int(info[b"used_memory"]), int(info.get(b"maxmemory", b"0"))

    def clients(self) -> int:
        """Returns how many clients are connected to this Redis."""
        lines = self.execute("INFO", "clients").split(b"\r\n")
        return int(next(line for line in lines if line.startswith(b"connected_clients:")).partition(b":")[2])

    def close(self) -> None:
        self._pool.close()
        if self._multiplexed is not None:
            self._multiplexed.close()

    def stats(self) -> dict[str, int]:
        """Returns how many connections are open and idle, and how many callers wait for one or for its reply."""
        found = self._pool.stats()
        if self._multiplexed is not None and self._multiplexed.usable:
            found["open"] += 1
            found["waiting"] += self._multiplexed.waiting
            found["idle"] += not self._multiplexed.waiting
        return found

    def _execute(self, commands: Sequence[tuple[Arg, ...]], *, shared: bool) -> Any:
        if self._down_until and time.monotonic() < self._down_until:
            raise StoreUnavailable("The limits store is not answering.", retry_after_s=1)
        try:
            reply = self._execute_shared(commands) if shared else self._pool.execute(commands)
        except redis.RedisError as exc:  # no reply came: also when the connection was refused while it was set up
            self._raise_unanswered(exc)
        self._down_until = 0.0
        for each in reply if len(commands) > 1 else (reply,):
            if isinstance(each, Exception):
                self._raise_refusal(each)
        return reply

    def _execute_shared(self, commands: Sequence[tuple[Arg, ...]]) -> Any:
        connection = self._multiplexed
        if connection is None or not connection.usable:
            connection = self._multiplexed = MultiplexedConnection(self._create(), get_hub(), self._timeout_s)
        elif connection.hub is not get_hub():  # another thread's event loop
            return self._pool.execute(commands)
        try:
            return connection.execute(commands)
        except redis.ConnectionError:
            if not connection.answered:
                raise
        # It had worked until Redis went away: perhaps it is back.
        if self._multiplexed is None or not self._multiplexed.usable:
            self._multiplexed = MultiplexedConnection(self._create(), get_hub(), self._timeout_s)
        return self._multiplexed.execute(commands)

    def _raise_unanswered(self, exc: redis.RedisError) -> NoReturn:
        self._down_until = time.monotonic() + _FAIL_FAST_S
        failure = StoreUnavailable("The limits store is not answering.", retry_after_s=1)
        failure.perhaps_done = True
        raise failure from exc

    def _raise_refusal(self, exc: Exception) -> NoReturn:
        code = getattr(exc, "status_code", None) or str(exc).partition(" ")[0]
        connection_refused = isinstance(exc, redis.ConnectionError)  # a few of them begin with ERR
        if code in _OUR_ERRORS and not connection_refused and not any(word in str(exc) for word in _REFUSALS):
            raise exc
        if code not in _REFUSED_ON_EVERY_CONNECTION:
            self._down_until = time.monotonic() + _FAIL_FAST_S
            self._drop_connections()
        raise StoreUnavailable(f"The limits store refuses ({code}).", retry_after_s=1) from exc

    def _drop_connections(self) -> None:
        """Makes the next command connect again; callers that wait on the shared connection still get their replies."""
        connection = self._multiplexed
        if connection is not None and connection.hub is get_hub():
            self._multiplexed = None
            connection.retire()
        self._pool.close()


class Script:
    """A Lua script, one atomic step: called with its KEYS and ARGV, it returns its reply."""

    def __init__(self, client: Redis, text: str) -> None:
        self._client = client
        self._text = text
        self._sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    def __call__(self, keys: Sequence[Arg], args: Sequence[Arg]) -> Any:
        try:
            return self._client.execute("EVALSHA", self._sha, len(keys), *keys, *args)
        except redis.exceptions.NoScriptError:
            pass  # the first time, and after a restart
        try:
            return self._client.execute("EVAL", self._text, len(keys), *keys, *args)
        except redis.exceptions.NoScriptError as exc:
            raise StoreUnavailable("The limits store has just forgotten its scripts.", retry_after_s=1) from exc

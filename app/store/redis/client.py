"""One round trip to Redis, bounded in time: a dead or hung Redis costs a caller milliseconds, not minutes.

Greenlets share one connection (`store.redis.multiplexed`); whoever cannot has one to itself (`store.redis.pool`).
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
from app.store.redis.url import connector

Arg = str | bytes | int | float
_LUA = Path(__file__).with_name("lua")
# Errors that are mistakes of ours, by their first word. With any other one (BUSY, READONLY, MASTERDOWN, NOAUTH, …) it
# is Redis that cannot, and what was asked may be asked again.
_MISTAKES = frozenset({"ERR", "WRONGTYPE", "NOSCRIPT", "EXECABORT", "BUSYGROUP", "BUSYKEY", "CROSSSLOT"})
# Up to Redis 6 a script's error has such a word only somewhere inside.
_REFUSALS = ("OOM command not allowed", "READONLY ", "MISCONF ", "NOREPLICAS ", "MASTERDOWN ", "CLUSTERDOWN ")
# Refusals that a new connection would meet as well. After any other one the address may lead to another Redis by now.
_SAME_EVERYWHERE = frozenset({"OOM", "BUSY"})
# After a failure, calls fail at once for this long instead of each waiting for its own timeout.
_FAIL_FAST_S = 0.25
_READY_MS = 10_000
# They may wait inside Redis, or change what the connection is: everybody behind them would wait, or be misread.
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

    Replies are bytes, ints, None and lists of them (RESP2). Raises `StoreUnavailable` when Redis cannot be
    reached, does not answer in time, or refuses (loading, busy, out of memory, read-only, …); one that says that it is
    not to be asked is looked up anew. A command whose connection broke is sent once more on a fresh one: what must not
    run twice has to be a script that notices.
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
        """`shared`: one connection for all greenlets. Left out, in processes whose sockets are gevent's."""
        kind, self._new = connector(
            url,
            protocol=2,
            socket_timeout=socket_timeout_s,
            socket_connect_timeout=connect_timeout_s,
            socket_keepalive=True,
            health_check_interval=0,
        )
        self._timeout_s = socket_timeout_s
        self._own = ConnectionPool(self._new, timeout_s=socket_timeout_s, most=max_connections)
        gevents = is_module_patched("socket") and not issubclass(kind, SSLConnection)
        self._shared = gevents if shared is None else shared
        self._line: MultiplexedConnection | None = None
        self._down_until = 0.0

    def execute(self, *args: Arg) -> Any:
        """Runs one command and returns its reply."""
        return self._exchange((args,), shared=self._shared and args[0] not in _NOT_SHARED)

    def pipeline(self, commands: Sequence[tuple[Arg, ...]]) -> list[Any]:
        """Runs commands in one round trip (not atomically) and returns their replies in order."""
        if len(commands) < 2:
            return [self.execute(*command) for command in commands]
        replies: list[Any] = self._exchange(commands, shared=self._shared)
        return replies

    def script(self, *names: str) -> Script:
        """One of `lua/`; of several the first ones are what it begins with."""
        return Script(self, "".join((_LUA / f"{name}.lua").read_text(encoding="utf-8") for name in names))

    def ping(self) -> None:
        """Raises `StoreUnavailable` unless Redis answers and accepts writes."""
        self.execute("SET", READY, 1, "PX", _READY_MS)

    def memory(self) -> tuple[int, int]:
        """Bytes in use, and how many it may use (0: no bound)."""
        info = dict(line.split(b":", 1) for line in self.execute("INFO", "memory").split(b"\r\n") if b":" in line)
        return int(info[b"used_memory"]), int(info.get(b"maxmemory", b"0"))

    def clients(self) -> int:
        """Connections that this Redis has."""
        lines = self.execute("INFO", "clients").split(b"\r\n")
        return int(next(line for line in lines if line.startswith(b"connected_clients:")).partition(b":")[2])

    def close(self) -> None:
        self._own.close()
        if self._line is not None:
            self._line.close()

    def stats(self) -> dict[str, int]:
        """Connections, and callers that wait: for one of their own, or for replies on the shared one."""
        found = self._own.stats()
        if self._line is not None and self._line.usable:
            found["open"] += 1
            found["waiting"] += self._line.waiting
            found["idle"] += not self._line.waiting
        return found

    def _exchange(self, commands: Sequence[tuple[Arg, ...]], *, shared: bool) -> Any:
        if self._down_until and time.monotonic() < self._down_until:
            raise StoreUnavailable("The limits store is not answering.", retry_after_s=1)
        try:
            reply = self._ask_shared(commands) if shared else self._own.ask(commands)
        except redis.RedisError as exc:  # it never came to an answer: also what the beginning of a connection was told
            self._fail(exc)
        self._down_until = 0.0
        for each in reply if len(commands) > 1 else (reply,):
            if isinstance(each, Exception):
                self._refused(each)
        return reply

    def _ask_shared(self, commands: Sequence[tuple[Arg, ...]]) -> Any:
        line = self._line
        if line is None or not line.usable:
            line = self._line = MultiplexedConnection(self._new(), get_hub(), self._timeout_s)
        elif line.hub is not get_hub():  # another thread's event loop
            return self._own.ask(commands)
        try:
            return line.ask(commands)
        except redis.ConnectionError:
            if not line.answered:
                raise
        # It had worked until Redis went away: perhaps it is back.
        if self._line is None or not self._line.usable:
            self._line = MultiplexedConnection(self._new(), get_hub(), self._timeout_s)
        return self._line.ask(commands)

    def _fail(self, exc: redis.RedisError) -> NoReturn:
        self._down_until = time.monotonic() + _FAIL_FAST_S
        failure = StoreUnavailable("The limits store is not answering.", retry_after_s=1)
        failure.perhaps_done = True
        raise failure from exc

    def _refused(self, exc: Exception) -> NoReturn:
        code = getattr(exc, "status_code", None) or str(exc).partition(" ")[0]
        connects_no_more = isinstance(exc, redis.ConnectionError)  # a few of them begin with ERR
        if code in _MISTAKES and not connects_no_more and not any(word in str(exc) for word in _REFUSALS):
            raise exc
        if code not in _SAME_EVERYWHERE:
            self._down_until = time.monotonic() + _FAIL_FAST_S
            self._drop_connections()
        raise StoreUnavailable(f"The limits store refuses ({code}).", retry_after_s=1) from exc

    def _drop_connections(self) -> None:
        """Whoever asks next connects anew; who waits on the shared one still gets its reply."""
        line = self._line
        if line is not None and line.hub is get_hub():
            self._line = None
            line.retire()
        self._own.close()


class Script:
    """A Lua script, one atomic step. Called with its KEYS and ARGV, returns its reply."""

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

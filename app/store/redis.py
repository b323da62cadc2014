"""One round trip to Redis, bounded in time: a dead or hung Redis costs a caller milliseconds, not minutes.

redis-py's connections are used directly, without its pool: under gevent its locks cost five times the command
(0.31 ms against 0.06 ms). Connections are handed out last in, first out, and at most `max_connections` exist.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import redis
from hiredis import pack_command
from redis._parsers.hiredis import NOT_ENOUGH_DATA
from redis.connection import Connection, ConnectionPool

from app.errors import StoreUnavailable
from app.sockets import receive, send

Arg = str | bytes | int | float
_BLOCK = 65_536
_pack: Any = pack_command
_LUA = Path(__file__).with_name("lua")
# How a Redis says that it takes no writes: full, a replica, out of disk, alone. Up to Redis 6 a script's error has
# such a word only somewhere inside, and redis-py then does not recognise it.
_REFUSALS = ("OOM command not allowed", "READONLY ", "MISCONF ", "NOREPLICAS ")
# After a failure, calls fail at once for this long instead of each waiting for its own timeout.
_FAIL_FAST_S = 0.25


class Redis:
    """Commands and scripts on one Redis.

    Replies are bytes, ints, None and lists of them (RESP2). Raises `StoreUnavailable` when Redis cannot be
    reached, does not answer in time, or refuses (loading, out of memory, read-only). A command whose connection
    broke is sent once more on a fresh one: what must not run twice has to be a script that notices.
    """

    def __init__(
        self, url: str, *, socket_timeout_s: float = 2.0, connect_timeout_s: float = 1.0, max_connections: int = 64
    ) -> None:
        # The pool only parses the URL; no connection of it is ever used.
        template = ConnectionPool.from_url(url, protocol=2, socket_timeout=socket_timeout_s, health_check_interval=0)
        if not url.startswith("unix:"):
            template.connection_kwargs |= {"socket_connect_timeout": connect_timeout_s, "socket_keepalive": True}
        self._new: Callable[[], Connection] = lambda: template.connection_class(**template.connection_kwargs)
        self._timeout_s = socket_timeout_s
        self._max = max_connections
        self._idle: deque[Connection] = deque()
        self._waiting: deque[_Waiter] = deque()
        self._open = 0
        self._down_until = 0.0

    def execute(self, *args: Arg) -> Any:
        """Runs one command and returns its reply."""
        return self._exchange([args], single=True)

    def pipeline(self, commands: Sequence[tuple[Arg, ...]]) -> list[Any]:
        """Runs commands in one round trip (not atomically) and returns their replies in order."""
        replies: list[Any] = self._exchange(commands, single=False)
        return replies

    def script(self, name: str) -> Script:
        return Script(self, (_LUA / f"{name}.lua").read_text(encoding="utf-8"))

    def ping(self) -> None:
        """Raises `StoreUnavailable` unless Redis answers and accepts writes."""
        self.execute("PING")

    def memory(self) -> tuple[int, int]:
        """Bytes in use, and how many it may use (0: no bound)."""
        info = dict(line.split(b":", 1) for line in self.execute("INFO", "memory").split(b"\r\n") if b":" in line)
        return int(info[b"used_memory"]), int(info.get(b"maxmemory", b"0"))

    def clients(self) -> int:
        """Connections that this Redis has."""
        lines = self.execute("INFO", "clients").split(b"\r\n")
        return int(next(line for line in lines if line.startswith(b"connected_clients:")).partition(b":")[2])

    def close(self) -> None:
        while self._idle:
            self._idle.pop().disconnect()
            self._open -= 1

    def stats(self) -> dict[str, Any]:
        return {"open": self._open, "idle": len(self._idle), "waiting": len(self._waiting), "max": self._max}

    def _exchange(self, commands: Sequence[tuple[Arg, ...]], *, single: bool) -> Any:
        if self._down_until and time.monotonic() < self._down_until:
            raise StoreUnavailable("The limits store is not answering.", retry_after_s=1)
        connection = self._acquire()
        reused = connection.is_connected
        try:
            try:
                reply = _send_and_read(connection, commands, single=single)
            except redis.TimeoutError:
                raise
            except redis.ConnectionError:
                if not reused:
                    raise
                # The server closed an idle connection (a restart): the others are as dead.
                connection.disconnect()
                self._drop_idle()
                reply = _send_and_read(connection, commands, single=single)
        except (redis.ConnectionError, redis.TimeoutError) as exc:
            connection.disconnect()
            self._release(connection)
            # LOADING and the like are ConnectionErrors too: Redis is there, but cannot serve.
            self._down_until = time.monotonic() + _FAIL_FAST_S
            failure = StoreUnavailable("The limits store is not answering.", retry_after_s=1)
            failure.perhaps_done = True
            raise failure from exc
        except redis.ResponseError as exc:
            self._release(connection)
            if isinstance(exc, redis.ReadOnlyError | redis.OutOfMemoryError) or any(w in str(exc) for w in _REFUSALS):
                raise StoreUnavailable("The limits store refuses writes.", retry_after_s=5) from exc
            raise
        except BaseException:
            # Killed in mid-reply (a greenlet's timeout): the connection would hand its reply to the next caller.
            connection.disconnect()
            self._release(connection)
            raise
        self._down_until = 0.0
        self._release(connection)
        return reply

    def _acquire(self) -> Connection:
        try:
            return self._idle.pop()
        except IndexError:
            pass
        if self._open < self._max:
            self._open += 1
            return self._new()
        waiter = _Waiter()
        self._waiting.append(waiter)
        if waiter.wait(self._timeout_s) and waiter.connection is not None:
            return waiter.connection
        raise StoreUnavailable("The limits store is busy.", retry_after_s=1)

    def _release(self, connection: Connection) -> None:
        while self._waiting:
            if self._waiting.popleft().give(connection):
                return
        self._idle.append(connection)

    def _drop_idle(self) -> None:
        while self._idle:
            self._idle.pop().disconnect()
            self._open -= 1


class _Waiter:
    """A caller that waits for a connection. Whoever takes the turn first, giver or time-out, decides."""

    __slots__ = ("_ready", "_turn", "connection")

    def __init__(self) -> None:
        self.connection: Connection | None = None
        self._turn = [True]
        self._ready = threading.Event()

    def wait(self, timeout_s: float) -> bool:
        if self._ready.wait(timeout_s):
            return True
        return not self._take_turn() and self._ready.wait(timeout_s)

    def give(self, connection: Connection) -> bool:
        if not self._take_turn():
            return False
        self.connection = connection
        self._ready.set()
        return True

    def _take_turn(self) -> bool:
        try:
            return self._turn.pop()
        except IndexError:
            return False


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
            return self._client.execute("EVAL", self._text, len(keys), *keys, *args)


def _send_and_read(connection: Any, commands: Sequence[tuple[Arg, ...]], *, single: bool) -> Any:
    """What `Connection.send_command` and `read_response` do, without their copies and checks (9 % of a call)."""
    if not connection.is_connected:
        connection.connect()
    sock, timeout_s = connection._sock, connection.socket_timeout
    next_reply = connection._parser._reader.gets
    replies: list[Any] = []
    try:
        send(sock, b"".join([_pack(command) for command in commands]), timeout_s)
        for _ in commands:
            reply = next_reply()
            while reply is NOT_ENOUGH_DATA:
                data = receive(sock, _BLOCK, timeout_s)
                if not data:
                    raise redis.ConnectionError("Redis closed the connection.")
                connection._parser._reader.feed(data)
                reply = next_reply()
            replies.append(reply)
    except TimeoutError as exc:
        raise redis.TimeoutError("Redis did not answer in time.") from exc
    except OSError as exc:
        raise redis.ConnectionError("The connection to Redis broke.") from exc
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies[0] if single else replies

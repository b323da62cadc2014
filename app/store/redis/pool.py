"""A bounded LIFO pool of Redis connections, for callers that cannot use the multiplexed one.

Those are processes without gevent, TLS, and commands that wait inside Redis. redis-py's connections are used directly,
without its pool: under gevent its locks cost five times the command (0.31 ms against 0.06 ms).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import redis
from redis.connection import Connection

from app.errors import StoreUnavailable
from app.net.sockets import receive, send
from app.store.redis.protocol import BLOCK_BYTES, NOT_ENOUGH_DATA, Arg, pack


class ConnectionPool:
    """At most `max_connections`, made by `create`; each serves one caller at a time. `timeout_s` bounds every wait."""

    def __init__(self, create: Callable[[], Connection], *, timeout_s: float, max_connections: int) -> None:
        self._create = create
        self._timeout_s = timeout_s
        self._max_connections = max_connections
        self._idle: deque[Connection] = deque()
        self._waiting: deque[_Waiter] = deque()
        self._open = 0

    def execute(self, commands: Sequence[tuple[Arg, ...]]) -> Any:
        """Sends `commands`; returns the reply to a single one, a list of replies to several.

        Raises `redis.ConnectionError`, `redis.TimeoutError`, and `StoreUnavailable` when none is free in time.
        """
        connection = self._acquire()
        reused = connection.is_connected
        try:
            try:
                return _send_and_read(connection, commands)
            except redis.ConnectionError:
                if not reused:
                    raise
                # The server closed an idle connection (a restart): the other idle ones are dead as well.
                connection.disconnect()
                self._drop_idle()
                return _send_and_read(connection, commands)
        except BaseException:
            # Also when killed in mid-reply (a greenlet's timeout): the next caller would get this one's reply.
            connection.disconnect()
            raise
        finally:
            self._release(connection)

    def close(self) -> None:
        self._drop_idle()

    def stats(self) -> dict[str, int]:
        return {
            "open": self._open,
            "idle": len(self._idle),
            "waiting": len(self._waiting),
            "max": self._max_connections,
        }

    def _acquire(self) -> Connection:
        try:
            return self._idle.pop()
        except IndexError:
            pass
        if self._open < self._max_connections:
            self._open += 1
            return self._create()
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
    """A caller that waits for a connection. The first to claim it, the giver or the time-out, decides the outcome."""

    __slots__ = ("_ready", "_unclaimed", "connection")

    def __init__(self) -> None:
        self.connection: Connection | None = None
        self._unclaimed = [True]
        self._ready = threading.Event()

    def wait(self, timeout_s: float) -> bool:
        if self._ready.wait(timeout_s):
            return True
        return not self._claim() and self._ready.wait(timeout_s)

    def give(self, connection: Connection) -> bool:
        if not self._claim():
            return False
        self.connection = connection
        self._ready.set()
        return True

    def _claim(self) -> bool:
        try:
            return self._unclaimed.pop()
        except IndexError:
            return False


def _send_and_read(connection: Any, commands: Sequence[tuple[Arg, ...]]) -> Any:
    """Replaces `Connection.send_command` and `read_response`, without their copies and checks (9 % of a call)."""
    if not connection.is_connected:
        connection.connect()
    sock, timeout_s = connection._sock, connection.socket_timeout
    next_reply = connection._parser._reader.gets
    replies: list[Any] = []
    try:
        send(sock, b"".join([pack(command) for command in commands]), timeout_s)
        for _ in commands:
            reply = next_reply()
            while reply is NOT_ENOUGH_DATA:
                data = receive(sock, BLOCK_BYTES, timeout_s)
                if not data:
                    raise redis.ConnectionError("Redis closed the connection.")
                connection._parser._reader.feed(data)
                reply = next_reply()
            replies.append(reply)
    except TimeoutError as exc:
        raise redis.TimeoutError("Redis did not answer in time.") from exc
    except OSError as exc:
        raise redis.ConnectionError("The connection to Redis broke.") from exc
    return replies if len(commands) > 1 else replies[0]

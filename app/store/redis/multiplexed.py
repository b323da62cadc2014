"""A multiplexed Redis connection: one for all greenlets of a worker, with automatic pipelining.

All commands of one turn of the event loop go out in one write. With a connection for each call a completion costs
0.62 ms, with this one 0.49 (and a bare hello, then, 0.39). Redis replies in order, so each reply goes to the first
caller in the queue; a caller that gave up keeps its place there, or the next one would get its reply.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import gevent
import redis
from gevent.hub import Waiter
from redis.connection import Connection

from app.store.redis.protocol import BLOCK_BYTES, NOT_ENOUGH_DATA, Arg, pack


class MultiplexedConnection:
    """A connection, from its beginning until it breaks. Belongs to the event loop in which it was made.

    When it breaks, or one reply is late, every caller that waits gets `redis.ConnectionError` or `redis.TimeoutError`.
    """

    def __init__(self, connection: Connection, hub: Any, timeout_s: float) -> None:
        self.usable = True
        self.answered = False  # True once a reply has come on this connection
        self.hub = hub
        self._connection: Any = connection
        self._timeout_s = timeout_s
        self._outgoing: list[bytes] = []
        # Callers in order: each with the number of its replies and its deadline (time.monotonic).
        self._waiting: deque[tuple[Any, int, float]] = deque()
        self._partial: list[Any] = []  # replies so far of the first caller, when it waits for several
        self._timer: Any = None  # runs while a caller waits
        self._sock: Any = None
        self._readable: Any = None
        self._writable: Any = None
        self._flush_due = True  # as soon as it is connected
        self._retired = False
        self._connecting = gevent.spawn(self._connect)

    def execute(self, commands: Sequence[tuple[Arg, ...]]) -> Any:
        """Sends `commands`; returns the reply to a single one, a list of replies to several."""
        waiter: Any = Waiter(self.hub)
        self._outgoing += [pack(command) for command in commands]
        self._waiting.append((waiter, len(commands), time.monotonic() + self._timeout_s))
        if self._timer is None:
            self._start_timer(self._timeout_s)
        if not self._flush_due:
            self._flush_due = True
            self.hub.loop.run_callback(self._flush)
        return waiter.get()

    def close(self) -> None:
        self._break(redis.ConnectionError, "The connection to Redis was closed.")

    def retire(self) -> None:
        """Closes the connection as soon as all commands that were sent have their replies; no more are sent."""
        self._retired = True
        if not self._waiting:
            self.close()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def _connect(self) -> None:
        try:
            self._connection.connect()
        except Exception as exc:  # noqa: BLE001 - boundary: whatever it was, the callers that wait must get it
            self._break(type(exc) if isinstance(exc, redis.RedisError) else redis.ConnectionError, str(exc))
            return
        if not self.usable:  # it took too long
            self._connection.disconnect()
            return
        sock = self._connection._sock
        self._sock = getattr(sock, "_sock", sock)  # beneath gevent's: here the event loop itself reads and writes
        self._sock.setblocking(False)
        self._next_reply = self._connection._parser._reader.gets
        self._feed = self._connection._parser._reader.feed
        # For as long as the connection lives: to stop and start it with every wait would cost a system call.
        self._readable = self.hub.loop.io(self._sock.fileno(), 1)
        self._writable = self.hub.loop.io(self._sock.fileno(), 2)
        self._readable.start(self._receive)
        self._flush()

    def _flush(self) -> None:
        if not self.usable:
            return
        data = b"".join(self._outgoing)
        self._outgoing.clear()
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._break(redis.ConnectionError, "The connection to Redis broke.")
            return
        self._flush_due = sent < len(data)
        if self._flush_due:
            self._outgoing.append(data[sent:])
            self._writable.start(self._flush_rest)

    def _flush_rest(self) -> None:
        self._writable.stop()
        self._flush()

    def _receive(self) -> None:
        try:
            data = self._sock.recv(BLOCK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._break(redis.ConnectionError, "Redis closed the connection.")
            return
        self.answered = True
        self._feed(data)
        complete: list[tuple[Any, Any]] = []  # callers that have all their replies now, with these
        try:
            while (reply := self._next_reply()) is not NOT_ENOUGH_DATA:
                waiter, count, _ = self._waiting[0]
                if count > 1:
                    self._partial.append(reply)
                    if len(self._partial) < count:
                        continue
                    reply, self._partial = self._partial, []
                self._waiting.popleft()
                complete.append((waiter, reply))
        except (
            redis.RedisError,
            IndexError,
        ):  # not a reply, or one that no caller waits for: the others may be anybody's
            self._waiting.extendleft((waiter, 1, 0.0) for waiter, _ in complete)
            self._break(redis.ConnectionError, "Redis sent what is no reply.")
            return
        if self._retired and not self._waiting:
            self.close()
        # Last of all: a caller that is woken runs at once, and may close this very connection.
        for waiter, reply in complete:
            waiter.switch(reply)

    def _start_timer(self, after_s: float) -> None:
        self._timer = self.hub.loop.timer(after_s)
        self._timer.start(self._check_deadline)

    def _check_deadline(self) -> None:
        """Breaks the connection if the first caller's reply is late; the timer may have been set for an earlier one."""
        if self._timer is not None:  # not closed since it was due
            self._timer.close()
            self._timer = None
        if self._sock is not None:
            self._receive()  # after a long turn of the event loop, timers come before data that has arrived meanwhile
        if not (self.usable and self._waiting):
            return
        left_s = self._waiting[0][2] - time.monotonic()
        if left_s > 0:
            self._start_timer(left_s)
        else:
            self._break(redis.TimeoutError, "Redis did not answer in time.")

    def _break(self, kind: type[redis.RedisError], text: str) -> None:
        if not self.usable:
            return
        self.usable = False
        if self._timer is not None:
            self._timer.close()
        if self._sock is not None:
            self._readable.close()
            self._writable.close()
        self._connecting.kill(block=False)
        self._connection.disconnect()
        for waiter, _, _ in self._waiting:
            self.hub.loop.run_callback(waiter.throw, kind(text))
        self._waiting.clear()

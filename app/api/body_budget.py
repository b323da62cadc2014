"""Body budget: bounds the bytes of large request bodies in a worker, and those of one key among them.

A body counts from before it is read until its call has ended, since the call keeps it: to send it to another target, or
to cut it for the ledger. Small bodies are not counted: bytes that came with the head are in memory anyway.
"""

from __future__ import annotations

from collections import defaultdict

import gevent
from gevent.event import Event

from app.errors import NotReady

LARGE_BYTES = 65_536  # longer ones are counted, and their key is looked up before they are read
_TIMEOUT_S = 1.0


class BodyBudget:
    """`max_bytes` of all bodies together; half of that for one key, but at least one body of `max_body_bytes`."""

    def __init__(self, *, max_bytes: int, max_body_bytes: int, timeout_s: float = _TIMEOUT_S) -> None:
        self._max_bytes = max(max_bytes, max_body_bytes)
        self.max_bytes_per_key = max(max_bytes // 2, max_body_bytes)
        self._timeout_s = timeout_s
        self._used = 0
        self._used_by_key: defaultdict[str, int] = defaultdict(int)
        self._released = Event()

    def acquire(self, key_id: str, size: int) -> None:
        """Takes `size` bytes. Waits a moment for room; raises `NotReady` when there is none."""
        if not self._fits(key_id, size) and not self._wait_for_room(key_id, size):
            raise NotReady("Too many large requests are in progress. Try again.", retry_after_s=1)
        self._used += size
        self._used_by_key[key_id] += size

    def release(self, key_id: str, size: int) -> None:
        self._used -= size
        self._used_by_key[key_id] -= size
        if not self._used_by_key[key_id]:
            del self._used_by_key[key_id]
        self._released.set()

    def _fits(self, key_id: str, size: int) -> bool:
        used_by_key = self._used_by_key.get(key_id, 0)
        return self._used + size <= self._max_bytes and used_by_key + size <= self.max_bytes_per_key

    def _wait_for_room(self, key_id: str, size: int) -> bool:
        with gevent.Timeout(self._timeout_s, False):  # type: ignore[arg-type]
            while not self._fits(key_id, size):
                self._released.clear()
                self._released.wait()
            return True
        return False


class BodyAllocation:
    """The bytes of the budget that one request has taken."""

    __slots__ = ("_budget", "_bytes", "_key_id")

    def __init__(self, budget: BodyBudget, key_id: str) -> None:
        self._budget = budget
        self._key_id = key_id
        self._bytes = 0

    def grow(self, size: int) -> None:
        """Takes `size` more bytes. Raises `NotReady`."""
        self._budget.acquire(self._key_id, size)
        self._bytes += size

    def release(self) -> None:
        """Gives all of them back; a second time changes nothing."""
        size, self._bytes = self._bytes, 0
        if size:
            self._budget.release(self._key_id, size)

"""Body budget: how many bytes of large request bodies a worker holds at once, and how many of them for one key.

A body counts from before it is read until its call has ended, since the call keeps it: to send it to another target, or
to cut it for the ledger. Small bodies are not counted: what came with the head is in memory anyway.
"""

from __future__ import annotations

from collections import defaultdict

import gevent
from gevent.event import Event

from app.errors import NotReady

LARGE_BYTES = 65_536  # longer ones are counted, and their key is looked up before they are read
_PATIENCE_S = 1.0


class BodyBudget:
    """`max_bytes` of all bodies together; half of that for one key, but at least one body of `max_body_bytes`."""

    def __init__(self, *, max_bytes: int, max_body_bytes: int, patience_s: float = _PATIENCE_S) -> None:
        self._max_bytes = max(max_bytes, max_body_bytes)
        self._max_bytes_of_a_key = max(max_bytes // 2, max_body_bytes)
        self._patience_s = patience_s
        self._held = 0
        self._held_of_keys: defaultdict[str, int] = defaultdict(int)
        self._freed = Event()

    @property
    def held(self) -> int:
        return self._held

    def hold(self, key_id: str) -> Hold:
        """Nothing yet, for a call of that key."""
        return Hold(self, key_id)

    def take(self, key_id: str, size: int) -> None:
        """Waits a moment for room. Raises `NotReady` when there is none."""
        if not self._fits(key_id, size) and not self._waited(key_id, size):
            raise NotReady("Too many large requests are in progress. Try again.", retry_after_s=1)
        self._held += size
        self._held_of_keys[key_id] += size

    def give_back(self, key_id: str, size: int) -> None:
        self._held -= size
        self._held_of_keys[key_id] -= size
        if not self._held_of_keys[key_id]:
            del self._held_of_keys[key_id]
        self._freed.set()

    def _fits(self, key_id: str, size: int) -> bool:
        of_this_key = self._held_of_keys.get(key_id, 0)
        return self._held + size <= self._max_bytes and of_this_key + size <= self._max_bytes_of_a_key

    def _waited(self, key_id: str, size: int) -> bool:
        with gevent.Timeout(self._patience_s, False):  # type: ignore[arg-type]
            while not self._fits(key_id, size):
                self._freed.clear()
                self._freed.wait()
            return True
        return False


class Hold:
    """One call's part of the budget."""

    __slots__ = ("_budget", "_bytes", "_key_id")

    def __init__(self, budget: BodyBudget, key_id: str) -> None:
        self._budget = budget
        self._key_id = key_id
        self._bytes = 0

    def take(self, size: int) -> None:
        """More bytes. Raises `NotReady`."""
        self._budget.take(self._key_id, size)
        self._bytes += size

    def release(self) -> None:
        """All of it; a second time changes nothing."""
        size, self._bytes = self._bytes, 0
        if size:
            self._budget.give_back(self._key_id, size)

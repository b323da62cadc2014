"""A clock that only the test moves, for parts that take one."""

from __future__ import annotations


class FakeClock:
    """Tells `now`, in seconds, until the test sets another."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

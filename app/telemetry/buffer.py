"""Figures are gathered in memory and written to prometheus_client four times a second.

A call changes fifteen values, each of which prometheus_client would write to a file at once, under a lock: a tenth of
what the whole call costs. A worker that is killed takes a quarter of a second of figures with it; the ledger, which
bills, never waits.
"""

from __future__ import annotations

import atexit
import threading
from bisect import bisect_left
from collections.abc import Callable
from typing import Any

_EVERY_S = 0.25


class MetricBuffer:
    """Increments and observations that are not written yet. Keyed by prometheus_client's children."""

    def __init__(self, *, in_background: bool) -> None:
        """`in_background`: writes by itself; else only when `flush` is called."""
        self._amounts: dict[Any, float] = {}
        self._observed: dict[Any, list[float]] = {}
        self._in_background = in_background
        self._running = False

    def inc(self, child: Any, amount: float = 1) -> None:
        if self._in_background and not self._running:
            self._start()
        self._amounts[child] = self._amounts.get(child, 0.0) + amount

    def observe(self, child: Any, value: float) -> None:
        """`child` is a histogram's."""
        if self._in_background and not self._running:
            self._start()
        counts = self._observed.get(child)
        if counts is None:
            counts = self._observed[child] = [0.0] * (len(child._upper_bounds) + 1)
        counts[bisect_left(child._upper_bounds, value)] += 1
        counts[-1] += value

    def flush(self) -> None:
        amounts, self._amounts = self._amounts, {}
        observed, self._observed = self._observed, {}
        for child, amount in amounts.items():
            child.inc(amount)
        for child, counts in observed.items():
            # What its `observe` does for one value at a time.
            child._sum.inc(counts[-1])
            for bucket, count in zip(child._buckets, counts[:-1], strict=True):
                if count:
                    bucket.inc(count)

    def _start(self) -> None:
        self._running = True
        atexit.register(self.flush)
        threading.Thread(target=_again_and_again, args=(self.flush,), name="metrics", daemon=True).start()


def _again_and_again(flush: Callable[[], None]) -> None:
    pause = threading.Event()
    while True:
        pause.wait(_EVERY_S)
        flush()

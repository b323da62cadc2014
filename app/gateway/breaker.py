"""Circuit breaker: stop calling a target that keeps failing, probe it later.

One a target and worker process: a worker learns of an outage from its own few calls, without a round trip.
"""

from __future__ import annotations

import time
from collections.abc import Callable


class Breaker:
    """Closed until `threshold` failures in a row; then open for `cooldown_s`; then one call probes (half open)."""

    def __init__(self, *, threshold: int, cooldown_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._threshold = threshold
        self._cooldown_s = cooldown_s
        self._clock = clock
        self._failures = 0
        self._opened_at: float | None = None
        self._probe_since: float | None = None

    @property
    def state(self) -> str:
        """`closed`, `open` or `half_open`."""
        if self._opened_at is None:
            return "closed"
        return "half_open" if self._clock() - self._opened_at >= self._cooldown_s else "open"

    def allows(self) -> bool:
        """Whether a call may be tried now. In the half-open state the first to ask is the probe."""
        if self._opened_at is None:
            return True
        now = self._clock()
        if now - self._opened_at < self._cooldown_s:
            return False
        # A probe that never reported (its client hung up) must not keep the target closed for ever.
        if self._probe_since is not None and now - self._probe_since < self._cooldown_s:
            return False
        self._probe_since = now
        return True

    def succeeded(self) -> None:
        self._failures = 0
        self._opened_at = self._probe_since = None

    def failed(self) -> None:
        self._failures += 1
        if self._failures >= self._threshold or self._probe_since is not None:
            self._opened_at = self._clock()
            self._probe_since = None

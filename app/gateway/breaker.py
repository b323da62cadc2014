"""Circuit breaker: stop calling a target that keeps failing, probe it later; leave it alone while its vendor asks so.

One a target and worker process: a worker learns of an outage from its own few calls, without a round trip. What one
caller's calls run into is no outage: it closes the target to that caller, and to nobody else.
"""

from __future__ import annotations

import time
from collections.abc import Callable

# At once, of different callers: one that never comes back must not keep the others from finding the target well.
_MOST_PROBES = 3


class Breaker:
    """Closed until `threshold` failures in a row; then open for `cooldown_s`; then calls probe (half open).

    Open to everybody only if one caller's failures are not all there is: without the caller who failed most often,
    at least half a threshold (rounded down, but one) must be left. A caller whose own failures reach the threshold
    before that is refused alone; the next calls of others decide. So with probes: a failed one refuses its caller for
    another cooldown, and a second one, of another caller, everybody.
    """

    def __init__(self, *, threshold: int, cooldown_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._threshold = threshold
        self._others_share = max(1, threshold // 2)
        self._cooldown_s = cooldown_s
        self._clock = clock
        # Since the last success of anybody, by caller: at most `threshold` of them, or it would be open.
        self._failures: dict[str, int] = {}
        self._refused: dict[str, float] = {}  # callers refused alone, since when: at most one, half open two
        self._opened_at: float | None = None
        self._probes: dict[str, float] = {}
        self._rests: dict[str, float] = {}  # until when, by caller: the two latest

    @property
    def state(self) -> str:
        """`closed`; `open`: calls are refused, everybody's or those of the only caller so far; `half_open`."""
        since = list(self._refused.values())
        if self._opened_at is not None:
            since.append(self._opened_at)
        if not since:
            return "closed"
        return "open" if self._clock() - max(since) < self._cooldown_s else "half_open"

    def is_open(self, caller: str) -> bool:
        """Whether `caller` is refused, and will be for a while."""
        since = self._refused.get(caller, self._opened_at)
        return since is not None and self._clock() - since < self._cooldown_s

    def allows(self, caller: str) -> bool:
        """Whether a call of `caller`, a key's id, may be tried now. In the half-open state it is then a probe."""
        if not self._failures and self._opened_at is None and not self._rests:
            return True
        if self.hold_off_s(caller) > 0 or self.is_open(caller):
            return False
        if self._refused.get(caller, self._opened_at) is None:
            return True
        now = self._clock()
        # A probe that never reported must not keep the target closed for ever.
        self._probes = {probe: since for probe, since in self._probes.items() if now - since < self._cooldown_s}
        if caller in self._probes or len(self._probes) >= _MOST_PROBES:
            return False
        self._probes[caller] = now
        return True

    def record_success(self) -> None:
        if self._failures or self._opened_at is not None:
            self._opened_at = None
            self._forget()

    def record_failure(self, caller: str) -> None:
        """The vendor failed a call of `caller`."""
        now = self._clock()
        if self._probes.pop(caller, None) is not None:
            self._refused[caller] = now
            if len(self._refused) > 1:
                self._open(now)
        elif self._opened_at is None:  # else it began before: it says nothing new
            failures = self._failures
            failures[caller] = failures.get(caller, 0) + 1
            count = sum(failures.values())
            if count >= self._threshold and count - max(failures.values()) >= self._others_share:
                self._open(now)
            elif failures[caller] >= self._threshold:
                self._refused.setdefault(caller, now)

    def release_probe(self, caller: str) -> None:
        """A call of `caller` ended without telling how the vendor is: its probe, if it was one, is somebody else's."""
        self._probes.pop(caller, None)

    def hold_off(self, caller: str, for_s: float) -> None:
        """The vendor asked to be left alone (429) in answer to a call of `caller`."""
        rests = {**self._rests, caller: self._clock() + for_s}
        self._rests = dict(sorted(rests.items(), key=lambda entry: -entry[1])[:2])

    def hold_off_s(self, caller: str) -> float:
        """For how long calls of `caller` leave the vendor alone: as it was told, or as two others were."""
        if not self._rests:
            return 0.0
        now = self._clock()
        first, last = max(self._rests.values()), min(self._rests.values())
        if first <= now:
            self._rests.clear()
        until = self._rests.get(caller, last if len(self._rests) == 2 else now)
        return max(until - now, 0.0)

    def _open(self, now: float) -> None:
        self._opened_at = now
        self._forget()

    def _forget(self) -> None:
        self._failures.clear()
        self._refused.clear()
        self._probes.clear()

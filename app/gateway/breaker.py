"""Circuit breaker: stops calls to a target that keeps failing, probes it later, and holds off while its vendor asks so.

There is one for each target and worker process: a worker learns of an outage from its own few calls, without a round
trip. Failures that only one caller's calls run into are no outage: they close the target to that caller alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable

# At once, of different callers: a probe that never reports must not keep the others from finding the target well.
_MAX_PROBES = 3


class Breaker:
    """Closed until `threshold` failures in a row; then open for `cooldown_s`; then half open: calls are probes.

    Callers are told apart by `key_id`. The breaker opens to everybody only when the calls of several callers fail:
    without those of the caller who failed most often, at least half a threshold of failures (rounded down, but one)
    must be left. A caller whose own failures reach the threshold before that is refused alone, and the next calls of
    others decide. The same holds for probes: a failed one refuses its caller for another cooldown, and a second one, of
    another caller, refuses everybody.
    """

    def __init__(self, *, threshold: int, cooldown_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._threshold = threshold
        self._min_failures_of_others = max(1, threshold // 2)
        self._cooldown_s = cooldown_s
        self._clock = clock
        # Counts since the last success of any caller, by key id: at most `threshold` of them, or it would be open.
        self._failures: dict[str, int] = {}
        self._refused_at: dict[str, float] = {}  # by key id, of callers refused alone: at most one, half open two
        self._opened_at: float | None = None
        self._probes: dict[str, float] = {}  # start times by key id
        self._hold_off_until: dict[str, float] = {}  # by key id: the two latest

    @property
    def state(self) -> str:
        """`closed`; `open`: calls are refused, everybody's or those of the only caller so far; `half_open`."""
        since = list(self._refused_at.values())
        if self._opened_at is not None:
            since.append(self._opened_at)
        if not since:
            return "closed"
        return "open" if self._clock() - max(since) < self._cooldown_s else "half_open"

    def is_open(self, key_id: str) -> bool:
        """Returns whether this caller's calls are refused and the cooldown has not passed."""
        since = self._refused_at.get(key_id, self._opened_at)
        return since is not None and self._clock() - since < self._cooldown_s

    def allows(self, key_id: str) -> bool:
        """Returns whether a call of this caller may be made now. In the half-open state the call is then a probe."""
        if not self._failures and self._opened_at is None and not self._hold_off_until:
            return True
        if self.hold_off_s(key_id) > 0 or self.is_open(key_id):
            return False
        if self._refused_at.get(key_id, self._opened_at) is None:
            return True
        now = self._clock()
        # A probe that never reported must not keep the target closed for ever.
        self._probes = {probe: since for probe, since in self._probes.items() if now - since < self._cooldown_s}
        if key_id in self._probes or len(self._probes) >= _MAX_PROBES:
            return False
        self._probes[key_id] = now
        return True

    def record_success(self) -> None:
        """Closes the breaker to everybody."""
        if self._failures or self._opened_at is not None:
            self._opened_at = None
            self._reset()

    def record_failure(self, key_id: str) -> None:
        """Counts a call of this caller that failed by the vendor's fault."""
        now = self._clock()
        if self._probes.pop(key_id, None) is not None:
            self._refused_at[key_id] = now
            if len(self._refused_at) > 1:
                self._open(now)
        elif self._opened_at is None:  # else the call began before the breaker opened: it says nothing new
            failures = self._failures
            failures[key_id] = failures.get(key_id, 0) + 1
            count = sum(failures.values())
            if count >= self._threshold and count - max(failures.values()) >= self._min_failures_of_others:
                self._open(now)
            elif failures[key_id] >= self._threshold:
                self._refused_at.setdefault(key_id, now)

    def release_probe(self, key_id: str) -> None:
        """Frees the place of this caller's probe, if its call was one: it ended without telling how the vendor is."""
        self._probes.pop(key_id, None)

    def hold_off(self, key_id: str, for_s: float) -> None:
        """Notes that the vendor asked to be left alone (429) in answer to a call of this caller."""
        until = {**self._hold_off_until, key_id: self._clock() + for_s}
        self._hold_off_until = dict(sorted(until.items(), key=lambda entry: -entry[1])[:2])

    def hold_off_s(self, key_id: str) -> float:
        """Returns for how many seconds this caller's calls are kept from the vendor.

        That is as long as the vendor told this caller, or the shorter of what it told two others.
        """
        if not self._hold_off_until:
            return 0.0
        now = self._clock()
        latest, earlier = max(self._hold_off_until.values()), min(self._hold_off_until.values())
        if latest <= now:
            self._hold_off_until.clear()
        until = self._hold_off_until.get(key_id, earlier if len(self._hold_off_until) == 2 else now)
        return max(until - now, 0.0)

    def _open(self, now: float) -> None:
        self._opened_at = now
        self._reset()

    def _reset(self) -> None:
        self._failures.clear()
        self._refused_at.clear()
        self._probes.clear()

"""The ledger process: moves rows from Redis to the database, and every second does the chores that need one owner.

The chores: replaying settlements that dead processes left on disk, settling calls whose worker died, and telling Redis
of revoked keys. An outage of Redis or the database is waited out; a part that fails does not hold up the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import structlog

from app.errors import GatewayError, StoreUnavailable
from app.gateway.reaper import Reaper
from app.stop_signal import StopSignal
from app.store.keys import Keys
from app.store.outbox import MAX_ROWS, Outbox

log = structlog.get_logger()
_CHORES_EVERY_S = 1.0
# A transaction costs as much as many rows: under load, wait for more of them.
_LINGER_S = 0.1
_FIRST_BACKOFF_S, _LONGEST_BACKOFF_S = 0.1, 5.0
_LAST_DRAIN_S = 10.0


class LedgerProcess:
    """The loop of `flask ledger run`. `monotonic` is in seconds.

    `replay_spools` runs before the reaper, so that a call whose settlement is on disk is not declared lost.
    `show_life` is called about every second, whatever is away: the loop turns.
    """

    def __init__(
        self,
        *,
        outbox: Outbox,
        reaper: Reaper,
        keys: Keys,
        replay_spools: Callable[[], object] = lambda: None,
        show_life: Callable[[], object] = lambda: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._outbox = outbox
        self._show_life = show_life
        self._monotonic = monotonic
        self._draining = _Part("outbox", partial(outbox.drain, MAX_ROWS))
        self._chores = (
            _Part("spool", replay_spools),
            _Part("reaper", reaper.run_once),
            _Part("keys", keys.sync_mirror),
        )

    def run(self, stop: StopSignal) -> None:
        """Runs until `stop` is set, then drains what is left."""
        chores_due = self._monotonic()
        log.info("ledger_started")
        while not stop.is_set():
            now = self._monotonic()
            if now >= chores_due:
                chores_due = now + _CHORES_EVERY_S
                self._show_life()
                for chore in self._chores:
                    chore.run(now)
            block_ms = max(1, int((chores_due - self._monotonic()) * 1000))
            moved = self._draining.run(now, block_ms)
            if moved is None:
                stop.wait(min(self._draining.backoff_s, _CHORES_EVERY_S))
            elif 0 < moved < MAX_ROWS:
                stop.wait(_LINGER_S)
        self._drain_the_rest()
        log.info("ledger_stopped")

    def _drain_the_rest(self) -> None:
        deadline = self._monotonic() + _LAST_DRAIN_S
        try:
            while self._outbox.drain() == MAX_ROWS and self._monotonic() < deadline:
                pass
        except StoreUnavailable as exc:
            log.warning("outbox_not_drained", reason=exc.message)


class _Part:
    """One part of the loop. While it fails it is tried again after a pause that doubles; the others go on meanwhile."""

    def __init__(self, name: str, work: Callable[..., Any]) -> None:
        self._name = name
        self._work = work
        self._retry_at = 0.0
        self.backoff_s = 0.0

    def run(self, now: float, *args: Any) -> Any:
        """Returns the result of the work; None when it failed, or failed so recently that it is not tried yet."""
        if self.backoff_s and now < self._retry_at:
            return None
        try:
            result = self._work(*args)
        except Exception as exc:  # noqa: BLE001 - boundary: whatever ails one part, the others go on
            self._back_off(exc, now)
            return None
        if self.backoff_s:
            self.backoff_s = 0.0
            log.info("ledger_part_recovered", part=self._name)
        return result

    def _back_off(self, exc: Exception, now: float) -> None:
        self.backoff_s = min(_LONGEST_BACKOFF_S, self.backoff_s * 2 or _FIRST_BACKOFF_S)
        self._retry_at = now + self.backoff_s
        expected = isinstance(exc, GatewayError)
        log.error(
            "ledger_part_failed",
            part=self._name,
            reason=str(exc) if expected else type(exc).__name__,
            retry_in_s=self.backoff_s,
            exc_info=not expected,
        )

"""The outbox: workers append rows to a Redis stream, the ledger process moves them to the database in batches.

Entries leave the stream after the database has committed them. A crash in between makes them come again, and the
ledger ignores what it already has: nothing is lost and nothing counts twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, Protocol

import structlog

from app.errors import GatewayError, StoreUnavailable
from app.store.ledger import Ledger, UsageRow, readable
from app.store.redis.client import Redis
from app.store.redis.keys import OUTBOX

log = structlog.get_logger()


_BATCH = 500
# Well below the socket timeout of `Redis` (2 s): a quiet outbox must not look like a dead Redis.
_BLOCK_MAX_MS = 1000
_CHORES_EVERY_S = 1.0
# A transaction costs as much as many rows: under load, wait for more of them.
_LINGER_S = 0.1
_BACKOFF_S = (0.1, 5.0)
_LAST_DRAIN_S = 10.0


class Stop(Protocol):
    """How the loop is told to end; `threading.Event` is one."""

    def is_set(self) -> bool: ...

    def wait(self, timeout: float) -> bool: ...


class Reaper(Protocol):
    def run_once(self) -> Any: ...


class Mirror(Protocol):
    def sync_mirror(self) -> Any: ...


class Outbox:
    """Drains the stream into the ledger. `monotonic` is in seconds."""

    def __init__(self, *, redis: Redis, ledger: Ledger, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._redis = redis
        self._ledger = ledger
        self._monotonic = monotonic

    def drain(self, batch: int = _BATCH, block_ms: int = 0) -> int:
        """Moves at most `batch` rows; waits up to `block_ms` (at most a second) for the first. Returns entries moved.

        Raises `StoreUnavailable`: then the rows are still in the stream, and perhaps already in the ledger.
        """
        waiting = ("BLOCK", min(block_ms, _BLOCK_MAX_MS)) if block_ms > 0 else ()
        reply = self._redis.execute("XREAD", "COUNT", batch, *waiting, "STREAMS", OUTBOX, "0-0")
        if not reply:
            return 0
        entries = reply[0][1]
        written = self._ledger.write([_row(fields) for _, fields in entries])
        self._redis.execute("XDEL", OUTBOX, *(entry_id for entry_id, _ in entries))
        log.debug("outbox_drained", entries=len(entries), written=written)
        return len(entries)

    def find_rows(self, call_ids: Collection[str]) -> dict[str, UsageRow]:
        """The rows that these calls have, here or in the ledger; a `lost` one only where there is no other.

        Here first: a row leaves only when the ledger has it.
        """
        found: dict[str, UsageRow] = {}
        start = "-"
        while page := self._redis.execute("XRANGE", OUTBOX, start, "+", "COUNT", _BATCH):
            start = "(" + page[-1][0].decode()
            for _, fields in page:
                row = readable(_row(fields))
                if row is not None and row.call_id in call_ids and (row.status != "lost" or row.call_id not in found):
                    found[row.call_id] = row
        in_ledger = self._ledger.find_rows([id for id in call_ids if id not in found or found[id].status == "lost"])
        return found | in_ledger

    def depth(self) -> int:
        """Rows that wait."""
        return int(self._redis.execute("XLEN", OUTBOX))

    def lag_s(self) -> float:
        """How long the oldest row has waited, by Redis's own clock; 0 when none waits."""
        (seconds, micros), oldest = self._redis.pipeline([("TIME",), ("XRANGE", OUTBOX, "-", "+", "COUNT", 1)])
        if not oldest:
            return 0.0
        written_ms = int(oldest[0][0].partition(b"-")[0])
        return max(0.0, int(seconds) + int(micros) / 1e6 - written_ms / 1000)

    def run(
        self,
        stop: Stop,
        *,
        reaper: Reaper,
        keys: Mirror,
        adopt: Callable[[], object] = lambda: None,
        show_life: Callable[[], object] = lambda: None,
    ) -> None:
        """The ledger process: until `stop`, drain, and every second reap and tell Redis of revoked keys.

        Before it declares calls lost, it has settlements that dead processes left on disk replayed: `adopt`.

        An outage of Redis or the database is waited out. At the end what is left is drained once more. `show_life` is
        called about every second: the loop turns, whatever is away.
        """
        turns = {name: _Turn(name) for name in ("outbox", "spool", "reaper", "keys")}
        chores_due = self._monotonic()
        log.info("ledger_started")
        while not stop.is_set():
            now = self._monotonic()
            if now >= chores_due:
                chores_due = now + _CHORES_EVERY_S
                show_life()
                turns["spool"].take(adopt, now)
                turns["reaper"].take(reaper.run_once, now)
                turns["keys"].take(keys.sync_mirror, now)
            block_ms = max(1, int((chores_due - self._monotonic()) * 1000))
            moved = turns["outbox"].take(partial(self.drain, _BATCH, block_ms), now)
            if moved is None:
                stop.wait(min(turns["outbox"].backoff_s, _CHORES_EVERY_S))
            elif 0 < moved < _BATCH:
                stop.wait(_LINGER_S)
        self._drain_what_is_left()
        log.info("ledger_stopped")

    def _drain_what_is_left(self) -> None:
        deadline = self._monotonic() + _LAST_DRAIN_S
        try:
            while self.drain() == _BATCH and self._monotonic() < deadline:
                pass
        except StoreUnavailable as exc:
            log.warning("outbox_not_drained", reason=exc.message)


class _Turn:
    """One part of the loop, tried again after a pause that doubles while it fails: the others go on meanwhile."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._next = 0.0
        self.backoff_s = 0.0

    def take(self, work: Callable[[], Any], now: float) -> Any:
        """What `work` returns; None when it failed, or failed so recently that it is not tried yet."""
        if self.backoff_s and now < self._next:
            return None
        try:
            result = work()
        except Exception as exc:  # boundary: whatever is wrong with one part, the others have to go on
            first, longest = _BACKOFF_S
            self.backoff_s = min(longest, self.backoff_s * 2 or first)
            self._next = now + self.backoff_s
            expected = isinstance(exc, GatewayError)
            log.error(
                "ledger_part_failed",
                part=self._name,
                reason=str(exc) if expected else type(exc).__name__,
                retry_in_s=self.backoff_s,
                exc_info=not expected,
            )
            return None
        if self.backoff_s:
            self.backoff_s = 0.0
            log.info("ledger_part_recovered", part=self._name)
        return result


def _row(fields: list[bytes]) -> bytes:
    """The `row` of a stream entry; of an entry without one, all there is, for the ledger to set aside."""
    named = dict(zip(fields[::2], fields[1::2], strict=False))
    return named.get(b"row", b" ".join(fields))

"""Transactional outbox: a Redis stream that workers append rows to, and from which they are moved to the ledger.

Entries leave the stream after the database has committed them. A crash in between makes them come again, and the
ledger ignores what it already has: nothing is lost and nothing counts twice.
"""

from __future__ import annotations

from collections.abc import Collection

import structlog

from app.domain.usage import UsageRow
from app.store.ledger import Ledger, readable
from app.store.redis.client import Redis
from app.store.redis.keys import OUTBOX

log = structlog.get_logger()
MAX_ROWS = 500  # in one transaction
# Well below the socket timeout of `Redis` (2 s): a quiet outbox must not look like a dead Redis.
_BLOCK_MAX_MS = 1000


class Outbox:
    """The stream of rows that are on their way to the ledger. Methods raise `StoreUnavailable`."""

    def __init__(self, *, redis: Redis, ledger: Ledger) -> None:
        self._redis = redis
        self._ledger = ledger

    def drain(self, max_rows: int = MAX_ROWS, block_ms: int = 0) -> int:
        """Moves at most `max_rows` into the ledger; waits up to `block_ms` (at most a second) for the first.

        Returns how many entries have left the stream.

        Raises `StoreUnavailable`: then the rows are still in the stream, and perhaps already in the ledger.
        """
        waiting = ("BLOCK", min(block_ms, _BLOCK_MAX_MS)) if block_ms > 0 else ()
        reply = self._redis.execute("XREAD", "COUNT", max_rows, *waiting, "STREAMS", OUTBOX, "0-0")
        if not reply:
            return 0
        entries = reply[0][1]
        written = self._ledger.write([_row(fields) for _, fields in entries])
        self._redis.execute("XDEL", OUTBOX, *(entry_id for entry_id, _ in entries))
        log.debug("outbox_drained", entries=len(entries), written=written)
        return len(entries)

    def find_rows(self, call_ids: Collection[str]) -> dict[str, UsageRow]:
        """Returns the rows of these calls, from the stream or the ledger; a `lost` one only where there is no other.

        The stream is read first: a row leaves it only when the ledger has it.
        """
        found: dict[str, UsageRow] = {}
        start = "-"
        while page := self._redis.execute("XRANGE", OUTBOX, start, "+", "COUNT", MAX_ROWS):
            start = "(" + page[-1][0].decode()
            for _, fields in page:
                row = readable(_row(fields))
                if row is not None and row.call_id in call_ids and (row.status != "lost" or row.call_id not in found):
                    found[row.call_id] = row
        in_ledger = self._ledger.find_rows([id for id in call_ids if id not in found or found[id].status == "lost"])
        return found | in_ledger

    def depth(self) -> int:
        """Returns how many rows wait."""
        return int(self._redis.execute("XLEN", OUTBOX))

    def lag_s(self) -> float:
        """Returns the age of the oldest row that waits, by Redis's own clock; 0 when none does."""
        (seconds, micros), oldest = self._redis.pipeline([("TIME",), ("XRANGE", OUTBOX, "-", "+", "COUNT", 1)])
        if not oldest:
            return 0.0
        written_ms = int(oldest[0][0].partition(b"-")[0])
        return max(0.0, int(seconds) + int(micros) / 1e6 - written_ms / 1000)


def _row(fields: list[bytes]) -> bytes:
    """Returns the `row` of a stream entry; of an entry without one, all its fields, for the ledger to set aside."""
    named = dict(zip(fields[::2], fields[1::2], strict=False))
    return named.get(b"row", b" ".join(fields))

"""Redelivery of settlements whose call Redis has forgotten: decides which of them have never run.

Redis remembers a call for minutes or a day after its end; a settlement may be replayed later than that. The ledger
never forgets: a call that has a row there, or in the outbox, was settled and charged.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from app.domain.limits import LIMITS_BY_NAME, Amounts
from app.domain.usage import UsageRow
from app.store.outbox import Outbox
from app.store.redis.client import Redis
from app.store.redis.keys import limit_of_key
from app.store.reservations import Settlement

_RESTORED_MS = 600_000  # until the settlement that follows at once


class Redelivery:
    def __init__(self, *, redis: Redis, outbox: Outbox) -> None:
        self._redis = redis
        self._outbox = outbox

    def never_ran(self, forgotten: Sequence[Settlement]) -> list[Settlement]:
        """Returns those still to be run. Raises `StoreUnavailable` when that cannot be known.

        A call that the reaper declared lost is among them: its reservation is put back as the reaper left it, so that
        the settlement corrects what was charged then.
        """
        rows = self._outbox.find_rows({settlement.call_id for settlement in forgotten})
        due = []
        for settlement in forgotten:
            row = rows.get(settlement.call_id)
            if row is not None and row.status != "lost":
                continue
            if row is not None:
                self._put_back(settlement, row)
            due.append(settlement)
        return due

    def _put_back(self, settlement: Settlement, lost: UsageRow) -> None:
        reservation = settlement.reservation_key
        charged = [charged_for(key, lost) for key in settlement.counter_keys]
        self._redis.pipeline(
            [
                ("HSET", reservation, "s", "lost", "c", msgspec.json.encode(charged)),
                ("PEXPIRE", reservation, _RESTORED_MS),
            ]
        )


def charged_for(counter_key: str, row: UsageRow) -> int:
    """Returns what a call with this row counts for on a counter."""
    limit = LIMITS_BY_NAME[limit_of_key(counter_key)]
    return Amounts(1, row.total_tokens, row.cost_nanousd)[limit.index]

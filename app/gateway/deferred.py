"""Deferred call: one that is admitted in one process and run in another, as a queued job carries it.

Its reservation stays open meanwhile, among those of the queue; any process that has the job can end it.
"""

from __future__ import annotations

import msgspec

from app.domain.charges import ChargedAttempt
from app.domain.limits import LIMITS_BY_NAME, Amounts, Counter
from app.domain.usage import UsageRow
from app.store.redis.keys import QUEUE
from app.store.reservations import Reservation

# limit, key, most, period_ms, reserved
_Charge = tuple[str, str, int, int, int]


class DeferredCall(msgspec.Struct):
    """The reservation of a queued call in a job's JSON, and how far the call has come.

    `read_cache` and `write_cache` are what the caller's headers said. `charged` are its upstream attempts so far that
    gave no answer and may be billed; money is reserved for `covered`. Both change with every attempt.
    """

    row: UsageRow
    reserve: Amounts
    if_lost: Amounts
    charges: list[_Charge]
    leases: str
    cache_key: str
    read_cache: bool
    write_cache: bool
    charged: list[ChargedAttempt] = msgspec.field(default_factory=list)
    covered: int = 1

    @classmethod
    def of(cls, reservation: Reservation, *, read_cache: bool, write_cache: bool) -> DeferredCall:
        reserve = reservation.reserve
        return cls(
            row=reservation.row,
            reserve=reserve,
            if_lost=reservation.if_lost,
            charges=[
                (counter.limit.name, counter.key, counter.most, counter.period_ms, reserve[counter.index])
                for counter in reservation.counters
            ],
            leases=reservation.leases,
            cache_key=reservation.cache_key,
            read_cache=read_cache,
            write_cache=write_cache,
        )

    @classmethod
    def decode(cls, data: bytes) -> DeferredCall:
        return _decode(data)

    def encode(self) -> bytes:
        return _encode(self)

    def reservation(self, owner: str = QUEUE) -> Reservation:
        """Returns the reservation, as one of those that `owner` has open."""
        return Reservation(
            row=self.row,
            reserve=self.reserve,
            if_lost=self.if_lost,
            cache_key=self.cache_key,
            queued=True,
            counters=tuple(
                Counter.of(LIMITS_BY_NAME[name], most, key, period_ms) for name, key, most, period_ms, _ in self.charges
            ),
            leases=self.leases,
            owner=owner,
        )


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(DeferredCall).decode

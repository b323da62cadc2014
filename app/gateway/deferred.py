"""A call that is admitted in one process and run in another: what must be known of it in between.

Its reservation stays open meanwhile, among those of the queue. Whoever ends the call settles it
with `DeferredCall.admitted`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from app.domain.charges import ChargedAttempt
from app.domain.identity import Caller
from app.gateway.admission import AdmissionRequest, Admitted
from app.gateway.heartbeat import QUEUE, reservations_of
from app.gateway.limits import LIMITS, Amounts, counter
from app.gateway.reservation import Charge

_LIMITS = {limit.name: limit for limit in LIMITS}


class _Charge(msgspec.Struct, array_like=True):
    limit: str
    key: str
    most: int
    period_ms: int
    reserved: int


class DeferredCall(msgspec.Struct):
    """The admission's part of a queued job. `read_cache` and `write_cache` are what the caller's headers said.

    `charged` are its upstream attempts so far that gave no answer and may be billed; money is reserved for `covered`.
    """

    row: dict[str, Any]
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
    def of(cls, admitted: Admitted, *, read_cache: bool, write_cache: bool) -> DeferredCall:
        ask = admitted.ask
        return cls(
            row=ask.row,
            reserve=ask.reserve,
            if_lost=ask.if_lost,
            leases=admitted.leases,
            cache_key=ask.cache_key,
            read_cache=read_cache,
            write_cache=write_cache,
            charges=[
                _Charge(
                    charge.counter.limit.name,
                    charge.counter.key,
                    charge.counter.most,
                    charge.counter.period_ms,
                    charge.reserved,
                )
                for charge in admitted.charges
            ],
        )

    @classmethod
    def decode(cls, data: bytes) -> DeferredCall:
        return _decode(data)

    def encode(self) -> bytes:
        return _encode(self)

    def admitted(self, caller: Caller) -> Admitted:
        """The admission, to be settled as `caller`'s."""
        ask = AdmissionRequest(
            call_id=self.row["call_id"],
            row=self.row,
            reserve=self.reserve,
            if_lost=self.if_lost,
            deadline_s=0,
            cache_key=self.cache_key,
            queued=True,
        )
        charges = []
        for charge in self.charges:
            limit = _LIMITS[charge.limit]
            bound = counter(limit, charge.most, charge.key, charge.period_ms, 0.0)
            charges.append(Charge(bound, charge.reserved))
        return Admitted(
            caller=caller,
            ask=ask,
            charges=tuple(charges),
            leases=self.leases,
            reservations=reservations_of(QUEUE),
            cached=None,
            follows=False,
            remaining=(),
        )


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(DeferredCall).decode

"""What admission reserves for a call, and what of it is recorded so that any process can end the call.

What the call really has on its counters is known to Redis alone (`c` of the reservation, see `lua/admit.lua`).
"""

from __future__ import annotations

from typing import Any

import msgspec

from app.gateway.limits import Amounts, Counter
from app.store.redis.keys import NOTHING, OUTBOX, reservation_key


class Charge(msgspec.Struct, frozen=True):
    """One limit's part in a call. `reserved` is what was asked for: a cached answer takes less."""

    counter: Counter
    reserved: int


class Recorded(msgspec.Struct):
    """A call as its reservation has it: the row it would have now, and what the settle script wants to be told.

    `args` are for a call that is lost, `cached_args` for one whose answer came from the cache.
    """

    row: dict[str, Any]
    leases: str
    flight: str
    keys: list[str]
    args: list[str | int]
    cached_args: list[str | int]

    def settle_keys(self, call_id: str, reservations: str) -> list[str]:
        return [reservation_key(call_id), reservations, NOTHING, self.flight, self.leases, OUTBOX, *self.keys]

    def request_args(self) -> list[str | int]:
        """`args` of a call that is a request, and used nothing."""
        args = list(self.args)
        args[1::4] = [int(":requests_" in key) for key in self.keys]
        return args


decode_recorded = msgspec.json.Decoder(Recorded).decode


def charge_args(charges: tuple[Charge, ...], used: Amounts) -> list[str | int]:
    """What the settle script wants to know of each limit: kind, actual, limit, period_ms."""
    args: list[str | int] = []
    for charge in charges:
        counter = charge.counter
        args += (counter.kind, used[counter.index], *counter.sent)
    return args


def never_made(row: dict[str, Any]) -> dict[str, Any]:
    """The row of a call that was declared lost although it was refused for want of an answer from Redis."""
    return {
        **row,
        "status": "error",
        "http_status": 503,
        "prompt_tokens": 0,
        "completion_tokens": 0,
        "cost_nanousd": 0,
        "estimated": False,
    }

"""Admission and settlement of calls: one Redis round trip each, and a reservation in between that cannot be lost.

Admission checks that the key is still valid and that every limit allows the call, reserves everything that it may use,
and fetches a cached answer. Settlement corrects the counters to what it used, and appends its ledger row. A call whose
worker died in between is settled as `lost` by `gateway.reaper`.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple, NoReturn

import msgspec
import structlog
from msgspec.structs import replace

from app.config.gateway import Plan
from app.domain.identity import Caller
from app.domain.limits import Amounts, Counter
from app.domain.retry_after import MAX_RETRY_AFTER_S
from app.domain.usage import UsageRow
from app.errors import BudgetExceeded, Remaining, StoreUnavailable
from app.gateway.callers import Callers
from app.gateway.heartbeat import Heartbeat
from app.gateway.limits import bind, counters, day_start, window_end
from app.gateway.plans import Plans
from app.gateway.remaining import refusal, remaining_of
from app.store.redis.client import Redis
from app.store.redis.keys import NOTHING, RUNNING_CALLS
from app.store.reservations import (
    AdmitReply,
    Reservation,
    UnreadableRecord,
    admit_call,
    cancel_call,
    extend_call,
    recorded,
    release_call,
    settle_call,
)
from app.store.spool import Spool

log = structlog.get_logger()
_MOST_BINDINGS = 10_000


@dataclass(frozen=True, slots=True)
class Binding:
    """The counters of one key's plan, worked out once a day instead of with every call.

    `valid_from` is for a clock that goes back over midnight: one that had been years ahead would never end its day.
    """

    plan: str
    counters: tuple[Counter, ...]
    leases: str  # the key of the caller's running calls, or a placeholder
    most_at_once: int | None
    valid_from: float
    valid_until: float


class Admitted(msgspec.Struct, frozen=True):
    """A call that was let in. It must be settled exactly once."""

    caller: Caller
    reservation: Reservation
    cached: bytes | None
    follows: bool  # another call is fetching the same answer right now
    remaining: tuple[Remaining, ...]


class Admission:
    """Lets calls in, and settles them. Raises `RateLimited`, `BudgetExceeded`, `InvalidApiKey`, `Forbidden`,
    `StoreUnavailable`."""

    def __init__(
        self,
        *,
        redis: Redis,
        callers: Callers,
        plans: Mapping[str, Plan],
        heartbeat: Heartbeat,
        spool: Spool,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._admit = redis.script("admit")
        self._extend = redis.script("extend")
        self._settle = redis.script("settle")
        self._callers = callers
        self._plans = Plans(plans, callers=callers, clock=clock)
        self._limits = {name: bind(plan) for name, plan in plans.items()}
        self._bindings: dict[str, Binding] = {}
        self._heartbeat = heartbeat
        self._spool = spool
        self._clock = clock

    def plan(self, caller: Caller) -> Plan:
        """Returns the caller's plan. Raises `Forbidden` when it is not in the file: it would have no limits."""
        return self._plans.plan_of(caller)

    def admit(self, caller: Caller, wanted: Reservation) -> Admitted:
        """Reserves what the call wants on its caller's counters, or raises why it may not be made."""
        self.begin()
        caller = self._plans.verify(caller)
        opened = self._open(caller, wanted)
        if opened.reply.state == b"stale":
            caller = self._plans.verify(self._callers.refresh(caller.key_hash))
            opened = self._open(caller, wanted)
            if opened.reply.state == b"stale":
                # Changed twice within a millisecond: whatever it is now, the next call will see it.
                caller = self._plans.verify(self._callers.refresh(caller.key_hash))
                opened = self._open(dataclasses.replace(caller, record=b""), wanted)
        reply, reservation = opened.reply, opened.reservation
        if reply.state == b"ended":
            self._end_again(reservation, reply.value)
        if reply.state == b"limited":
            raise refusal(reply, reservation, opened.most_at_once, opened.now)
        return Admitted(
            caller=caller,
            reservation=reservation,
            cached=reply.value if reply.state == b"hit" else None,
            follows=reply.state == b"follow",
            remaining=remaining_of(reservation.counters, reply.figures, opened.now),
        )

    def begin(self) -> None:
        """Shows the process's first sign of life, and replays what processes that are no more have left."""
        if self._heartbeat.announce():
            self._spool.adopt(self._settle)

    def cover(self, reservation: Reservation, attempt: int) -> None:
        """Reserves money for upstream attempt number `attempt` of an open call, and has the reaper know `reservation`.

        Raises `BudgetExceeded` when there is none left, or the call has ended meanwhile.
        """
        if self._extend(*extend_call(reservation, attempt)) != 1:
            raise BudgetExceeded(
                "The call failed, and one more attempt could exceed your plan's budget.",
                limit="budget_usd",
                retry_after_s=MAX_RETRY_AFTER_S,
                retryable=False,
            )

    def settle(
        self, reservation: Reservation, used: Amounts, row: UsageRow, *, answer: bytes = b"", ttl_s: int = 0
    ) -> None:
        """Ends the call: `used` is what it really took, `row` its ledger row, `answer` what to cache.

        Never fails for want of Redis: the settlement is then spooled to disk and replayed.
        """
        self._spool.settle(self._settle, *settle_call(reservation, used, row, answer=answer, ttl_s=ttl_s))

    def cancel(self, reservation: Reservation) -> None:
        """Gives back what a call has reserved that will not be made after all. It leaves no row."""
        self._spool.settle(self._settle, *cancel_call(reservation))

    def release(self, reservation: Reservation) -> None:
        """Ends a call that was free but for the request that it counts as. It leaves no row."""
        self._spool.settle(self._settle, *release_call(reservation))

    def _open(self, caller: Caller, wanted: Reservation) -> _Opened:
        now = self._clock()
        binding = self._bindings.get(caller.key_id)
        if binding is None or not binding.valid_from <= now < binding.valid_until or binding.plan != caller.plan:
            binding = self._bind(caller, now)
        reservation = replace(
            wanted,
            counters=binding.counters,
            leases=binding.leases,
            owner=wanted.owner or self._heartbeat.worker_id,
        )
        most_at_once = binding.most_at_once
        call = admit_call(reservation, key_hash=caller.key_hash, key_record=caller.record, most_at_once=most_at_once)
        try:
            reply = AdmitReply.of(self._admit(*call))
        except StoreUnavailable as exc:
            if exc.perhaps_done:
                self._undo(reservation)
            raise
        return _Opened(reservation, reply, most_at_once, now)

    def _undo(self, reservation: Reservation) -> None:
        """Gives back what Redis may have reserved for a call that was refused because no answer came.

        Should the admission reach Redis only afterwards, it finds the call ended.
        """
        log.warning("admission_unanswered", call_id=reservation.call_id)
        self._spool.keep(self._settle, *cancel_call(reservation))

    def _end_again(self, reservation: Reservation, record: bytes | None) -> NoReturn:
        """Cancels a call that was admitted before and has ended, or that cannot be answered the same again."""
        log.warning("admission_repeated_too_late", call_id=reservation.call_id)
        if record:
            try:
                before = recorded(record, owner=reservation.owner)
            except UnreadableRecord as exc:
                log.error("reservation_unreadable", call_id=reservation.call_id, reason=str(exc))
            else:
                self._spool.settle(self._settle, *cancel_call(replace(before, row=reservation.row)))
        raise StoreUnavailable("The limits store is not answering.", retry_after_s=1)

    def _bind(self, caller: Caller, now: float) -> Binding:
        most_at_once = self._plans.plan_of(caller).concurrency
        day = datetime.fromtimestamp(now, UTC)
        if len(self._bindings) >= _MOST_BINDINGS:
            self._bindings.clear()
        binding = self._bindings[caller.key_id] = Binding(
            plan=caller.plan,
            counters=counters(self._limits[caller.plan], caller.key_id, now),
            leases=RUNNING_CALLS + caller.key_id if most_at_once is not None else NOTHING,
            most_at_once=most_at_once,
            valid_from=day_start(day),
            valid_until=window_end("day", day),
        )
        return binding


class _Opened(NamedTuple):
    """A reservation that admit.lua was asked to open at `now`, and its reply."""

    reservation: Reservation
    reply: AdmitReply
    most_at_once: int | None
    now: float

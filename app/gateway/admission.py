"""Admission and settlement: one Redis round trip in, one out, and between them a reservation that cannot be lost.

In: the key is still valid, every limit allows the call, everything it may use is reserved, and a cached answer
is fetched. Out: counters are corrected to what it used, and its ledger row is appended. A call whose worker died
in between is settled as `lost` by `gateway.reaper`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, NoReturn

import msgspec
import structlog
from msgspec.structs import replace as replace_fields

from app.config.gateway import Plan
from app.domain.identity import Caller
from app.domain.retry_after import MAX_RETRY_AFTER_S
from app.errors import BudgetExceeded, Remaining, StoreUnavailable
from app.gateway.callers import Callers
from app.gateway.heartbeat import Heartbeat
from app.gateway.limits import Amounts, Counter, bind, counters, day_start, window_end
from app.gateway.plans import Plans
from app.gateway.remaining import refused, remaining_of
from app.gateway.reservation import Charge, Recorded, charge_args, decode_recorded, never_made
from app.store.redis.client import Redis
from app.store.redis.keys import (
    KEY_RECORD,
    NOTHING,
    OUTBOX,
    RUNNING_CALLS,
    cache_entry_key,
    flight_key,
    reservation_key,
)
from app.store.spool import Spool

log = structlog.get_logger()
# A reservation outlives its deadline by this much, so that a ledger process that was down still finds it.
_KEEP_MS = 7 * 86_400_000
# How long a settled call is remembered: longer than any retry of the settlement itself takes.
_SETTLED_MS = 120_000
# A queued call may be run once more, by another worker, after it was settled.
_QUEUED_SETTLED_MS = 86_400_000
# How long a cancelled call is remembered: the kernel tries for 15 minutes to deliver an admission that got stuck.
_CANCELLED_MS = 3_600_000
_MOST_BINDINGS = 10_000
_NEVER_MADE = Amounts(requests=1)  # if it has a row, else nothing
_encode = msgspec.json.Encoder().encode


class AdmissionRequest(msgspec.Struct, kw_only=True):
    """What a call wants to be admitted for. `row` is the ledger row as far as it is known."""

    call_id: str
    row: dict[str, Any]
    reserve: Amounts  # what is reserved on the limits: tokens as likely, money as the most it can cost
    if_lost: Amounts  # what is charged if the worker dies: tokens and money as likely
    deadline_s: float
    cache_key: str = ""  # "" when the answer must not come from, nor go to, the cache
    read_cache: bool = False
    single_flight: bool = False  # one call fetches the answer, identical ones wait for it
    queued: bool = False  # it runs later: it is no running call yet
    reservations: str = ""  # the key of the open reservations that this one is to be among; "": this worker's


@dataclass(frozen=True, slots=True)
class Binding:
    """A key's limits as the scripts want them, worked out once a day instead of with every call.

    `valid_from` is for a clock that goes back over midnight: one that had been years ahead would never end its day.
    """

    plan: str
    counters: tuple[Counter, ...]
    leases: str  # the key of the caller's running calls, or a placeholder
    most_at_once: int | None
    valid_from: float
    valid_until: float


class Admitted(msgspec.Struct):
    """A call that was let in. It must be settled exactly once."""

    caller: Caller
    ask: AdmissionRequest
    charges: tuple[Charge, ...]
    leases: str  # the key of the caller's running calls, or a placeholder
    reservations: str  # the key of the open reservations that this one is among
    cached: bytes | None
    follows: bool  # another call is fetching the same answer right now
    remaining: tuple[Remaining, ...]


class Admission:
    """Raises `RateLimited`, `BudgetExceeded`, `InvalidApiKey`, `Forbidden`, `StoreUnavailable`."""

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
        """The caller's plan. Raises `Forbidden` when it is not in the file: without its limits nobody is served."""
        return self._plans.plan_of(caller)

    def admit(self, caller: Caller, ask: AdmissionRequest) -> Admitted:
        self.begin()
        caller = self._plans.verify(caller)
        reply = self._call_admit(caller, ask)
        if reply[0][0] == b"stale":
            caller = self._plans.verify(self._callers.refresh(caller.key_hash))
            reply = self._call_admit(caller, ask)
            if reply[0][0] == b"stale":
                # Changed twice within a millisecond: whatever it is now, the next call will see it.
                caller = self._plans.verify(self._callers.refresh(caller.key_hash))
                reply = self._call_admit(replace(caller, record=b""), ask)
        answer, charges, binding, now = reply
        if answer[0] == b"ended":
            self._end_again(ask, answer)
        if answer[0] == b"limited":
            raise refused(answer, charges, binding.most_at_once, now)
        return Admitted(
            caller=caller,
            ask=ask,
            charges=charges,
            leases=binding.leases,
            reservations=self._reservations(ask),
            cached=answer[1] if answer[0] == b"hit" else None,
            follows=answer[0] == b"follow",
            remaining=remaining_of(charges, answer[2:], now),
        )

    def begin(self) -> None:
        """Once a process: shows its sign of life, and replays what processes that are no more have left."""
        if self._heartbeat.announce():
            self._spool.adopt(self._settle)

    def cover(self, admitted: Admitted, number: int, *, if_lost: Amounts, row: dict[str, Any]) -> None:
        """Reserves money for upstream attempt `number` of an open call; `if_lost` and `row` are then what the reaper
        settles. Raises `BudgetExceeded` when there is none left, or the call has ended meanwhile."""
        ask = replace_fields(admitted.ask, if_lost=if_lost, row=row)
        money = Amounts(0, 0, ask.reserve.nanousd)
        keys = [reservation_key(ask.call_id), *(charge.counter.key for charge in admitted.charges)]
        data = _for_reaper(ask, admitted.charges, admitted.leases)
        if self._extend(keys, [number, data, *charge_args(admitted.charges, money)]) != 1:
            raise BudgetExceeded(
                "The call failed, and one more attempt could exceed your plan's budget.",
                limit="budget_usd",
                retry_after_s=MAX_RETRY_AFTER_S,
                retryable=False,
            )

    def settle(
        self, admitted: Admitted, used: Amounts, row: dict[str, Any], *, answer: bytes = b"", ttl_s: int = 0
    ) -> None:
        """Ends the call: `used` is what it really took, `row` its ledger row, `answer` what to cache.

        Never fails for want of Redis: the settlement is then spooled to disk and replayed.
        """
        ask = admitted.ask
        keys = [
            reservation_key(ask.call_id),
            admitted.reservations,
            cache_entry_key(ask.cache_key),
            flight_key(ask.cache_key),
            admitted.leases,
            OUTBOX,
            *(charge.counter.key for charge in admitted.charges),
        ]
        args: list[str | bytes | int] = [
            ask.call_id,
            "settled",
            _encode(row),
            answer,
            max(ttl_s * 1000, 1),
            _QUEUED_SETTLED_MS if ask.queued else _SETTLED_MS,
            *charge_args(admitted.charges, used),
        ]
        self._spool.settle(self._settle, keys, args)

    def cancel(self, admitted: Admitted, reservations: str) -> None:
        """Gives back what a call has reserved that will not be made after all. It leaves no row."""
        ask, charges = admitted.ask, admitted.charges
        flight = flight_key(ask.cache_key)
        keys = [reservation_key(ask.call_id), reservations, NOTHING, flight, admitted.leases, OUTBOX]
        keys += (charge.counter.key for charge in charges)
        self._spool.settle(self._settle, keys, _cancel_args(ask, charge_args(charges, _NEVER_MADE)))

    def _call_admit(
        self, caller: Caller, ask: AdmissionRequest
    ) -> tuple[list[Any], tuple[Charge, ...], Binding, float]:
        now = self._clock()
        binding = self._bindings.get(caller.key_id)
        if binding is None or not binding.valid_from <= now < binding.valid_until or binding.plan != caller.plan:
            binding = self._bind(caller, now)
        reserve = ask.reserve
        charges = tuple([Charge(counter, reserve[counter.index]) for counter in binding.counters])
        deadline_ms = int(ask.deadline_s * 1000)
        keys = [
            KEY_RECORD + caller.key_hash,
            reservation_key(ask.call_id),
            self._reservations(ask),
            cache_entry_key(ask.cache_key),
            flight_key(ask.cache_key),
            binding.leases,
        ]
        args: list[str | bytes | int] = [
            caller.record,
            ask.call_id,
            deadline_ms,
            _for_reaper(ask, charges, binding.leases),
            deadline_ms + _KEEP_MS,
            "1" if ask.read_cache else "0",
            "1" if ask.single_flight else "0",
            "" if binding.most_at_once is None or ask.queued else binding.most_at_once,
        ]
        for charge in charges:
            counter = charge.counter
            keys.append(counter.key)
            cached_too = "1" if counter.limit.counts_cached else "0"
            args += (counter.kind, charge.reserved, *counter.sent, cached_too)
        try:
            return self._admit(keys, args), charges, binding, now
        except StoreUnavailable as exc:
            if exc.perhaps_done:
                self._undo(ask, keys, charges)
            raise

    def _reservations(self, ask: AdmissionRequest) -> str:
        return ask.reservations or self._heartbeat.reservations_key

    def _undo(self, ask: AdmissionRequest, keys: list[str], charges: tuple[Charge, ...]) -> None:
        """Gives back what Redis may have reserved for a call that was refused because no answer came.

        Should the admission reach Redis only afterwards, it finds the call ended.
        """
        log.warning("admission_unanswered", call_id=ask.call_id)
        undo = [*keys[1:3], NOTHING, *keys[4:6], OUTBOX, *keys[6:]]
        self._spool.keep(self._settle, undo, _cancel_args(ask, charge_args(charges, _NEVER_MADE)))

    def _end_again(self, ask: AdmissionRequest, answer: list[Any]) -> NoReturn:
        """It was admitted before, and has ended or cannot be answered the same again: nobody will make the call."""
        log.warning("admission_repeated_too_late", call_id=ask.call_id)
        if answer[1]:
            recorded: Recorded = decode_recorded(answer[1])
            keys = recorded.settle_keys(ask.call_id, self._reservations(ask))
            self._spool.settle(self._settle, keys, _cancel_args(ask, recorded.request_args()))
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


def _cancel_args(ask: AdmissionRequest, charges: list[str | int]) -> list[str | bytes | int]:
    return [ask.call_id, "cancelled", _encode(never_made(ask.row)), "", 1, _CANCELLED_MS, *charges]


def _for_reaper(ask: AdmissionRequest, charges: tuple[Charge, ...], leases: str) -> bytes:
    """What `gateway.reaper` needs to settle this call without its worker: a `Recorded`."""
    return _encode(
        {
            "row": ask.row,
            "leases": leases,
            "flight": flight_key(ask.cache_key),
            "keys": [charge.counter.key for charge in charges],
            "args": charge_args(charges, ask.if_lost),
            "cached_args": charge_args(charges, Amounts(ask.if_lost.requests)) if ask.read_cache else [],
        }
    )

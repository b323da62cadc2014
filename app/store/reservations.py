"""Reservation: what a call holds in Redis from its admission to its settlement, and the script calls that change it.

Everything here is a value: `admit_call`, `extend_call`, `settle_call`, `cancel_call` and `lose_call` return KEYS and
ARGV of a script in `redis/lua/`, whose order no other module knows. What the call really has on its counters is known
to Redis alone (field `c` of the reservation, see admit.lua).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from app.domain.limits import LIMITS_BY_NAME, Amounts, Counter
from app.domain.usage import UsageRow
from app.store.redis.client import Arg
from app.store.redis.keys import (
    KEY_RECORD,
    NOTHING,
    OUTBOX,
    cache_entry_key,
    cache_key_of_flight,
    flight_key,
    limit_of_key,
    reservation_key,
    reservations_key,
)

# A reservation outlives its deadline by this much, so that a ledger process that was down still finds it.
_KEEP_MS = 7 * 86_400_000
# How long a settled call is remembered: longer than any retry of the settlement itself takes.
_SETTLED_MS = 120_000
# A queued call may be run once more, by another worker, after it was settled.
_QUEUED_SETTLED_MS = 86_400_000
# How long a cancelled call is remembered: the kernel tries for 15 minutes to deliver an admission that got stuck.
_CANCELLED_MS = 3_600_000
# How long a lost call is remembered, for a worker that was only stalled and settles after all.
_LOST_MS = 86_400_000
FORGOTTEN = -1  # settle.lua's reply about a call that Redis knows nothing of
_ONE_REQUEST = Amounts(requests=1)  # what a cancelled call is charged if it has a row, which only a lost one has
_encode = msgspec.json.Encoder().encode


class ScriptCall(NamedTuple):
    """The KEYS and ARGV of a script."""

    keys: Sequence[Arg]
    args: Sequence[Arg]


class Reservation(msgspec.Struct, frozen=True, kw_only=True):
    """One call's reservation. Whoever has it can end the call, in any process.

    `row` is the ledger row of the call if it is lost. `Admission.admit` is given one without `counters` and `leases`,
    and adds those that the caller's plan has.
    """

    row: UsageRow
    reserve: Amounts  # what is reserved on the limits: tokens as likely, money as the most it can cost
    if_lost: Amounts  # what is charged if the worker dies: tokens and money as likely
    deadline_s: float = 0.0
    cache_key: str = ""  # "" when the answer must not come from, nor go to, the cache
    read_cache: bool = False
    single_flight: bool = False  # one call fetches the answer, identical ones wait for it
    queued: bool = False  # it runs later: it is no running call yet
    counters: tuple[Counter, ...] = ()
    leases: str = NOTHING  # the key of the caller's running calls
    owner: str = ""  # whose open reservations it is among: a worker's id, or QUEUE; "": this worker's

    @property
    def call_id(self) -> str:
        return self.row.call_id

    @property
    def has_budget(self) -> bool:
        """Says that the caller's money is limited."""
        return self.reserve.nanousd > 0 or any(counter.limit.unit == "nanousd" for counter in self.counters)

    def record(self) -> bytes:
        """Returns what Redis keeps (field `d`), from which `recorded` makes the reservation of a lost call."""
        counters = self.counters
        cached_args = _counter_args(counters, Amounts(self.if_lost.requests)) if self.read_cache else []
        args = _counter_args(counters, self.if_lost)
        keys = [counter.key for counter in counters]
        return _encode(_Record(self.row, self.leases, flight_key(self.cache_key), keys, args, cached_args))


class UnreadableRecord(Exception):
    """A record of a reservation in Redis that is damaged, or of a version that knows more than this one."""


def recorded(data: bytes, *, owner: str) -> Reservation:
    """Returns the reservation that `Reservation.record` described, as far as ending its call needs it.

    Reads also records of the version that sent five arguments a counter, the second being what was reserved. Raises
    `UnreadableRecord`.
    """
    try:
        return _reservation_of(_decode_record(data), owner)
    except (msgspec.DecodeError, LookupError, ValueError) as exc:
        raise UnreadableRecord(f"{type(exc).__name__}: {exc}") from exc


def _reservation_of(record: _Record, owner: str) -> Reservation:
    step = len(record.args) // len(record.keys) if record.keys else 0
    amounts = {"requests": 1, "tokens": 0, "nanousd": 0}
    counters = []
    for key, start in zip(record.keys, range(0, len(record.args), step or 1), strict=True):
        limit = LIMITS_BY_NAME[limit_of_key(key)]
        amount, most, period_ms = record.args[start + step - 3 : start + step]
        amounts[limit.unit] = int(amount)
        counters.append(Counter.of(limit, int(most), key, int(period_ms)))
    return Reservation(
        row=record.row,
        reserve=Amounts(),
        if_lost=Amounts(**amounts),
        cache_key=cache_key_of_flight(record.flight),
        counters=tuple(counters),
        leases=record.leases,
        owner=owner,
    )


class AdmitReply(msgspec.Struct, frozen=True):
    """A reply of admit.lua. `figures` are two a counter: what is left, and ms until it is full again (-1: its window).

    `value`: of a hit, the answer; of a limited call, the number of the limit (0: calls at once); of a stale one, the
    record that its API key has by now; of an ended one, `d`.
    """

    state: bytes  # ok, hit, follow, limited, stale or ended
    value: Any
    figures: list[int]
    retry_ms: int = 0

    @classmethod
    def of(cls, reply: list[Any]) -> AdmitReply:
        if reply[0] == b"limited":
            return cls(reply[0], reply[1], reply[3:], reply[2])
        return cls(reply[0], reply[1], reply[2:])


def admit_call(reservation: Reservation, *, key_hash: str, key_record: bytes, most_at_once: int | None) -> ScriptCall:
    """Returns the call of admit.lua that opens `reservation`, if the API key still has `key_record`."""
    deadline_ms = int(reservation.deadline_s * 1000)
    call_id, cache_key = reservation.call_id, reservation.cache_key
    keys = [
        KEY_RECORD + key_hash,
        reservation_key(call_id),
        reservations_key(reservation.owner),
        cache_entry_key(cache_key),
        flight_key(cache_key),
        reservation.leases,
    ]
    args: list[Arg] = [
        key_record,
        call_id,
        deadline_ms,
        reservation.record(),
        deadline_ms + _KEEP_MS,
        "1" if reservation.read_cache else "0",
        "1" if reservation.single_flight else "0",
        "" if most_at_once is None or reservation.queued else most_at_once,
    ]
    reserve = reservation.reserve
    for counter in reservation.counters:
        keys.append(counter.key)
        counts_cached = "1" if counter.limit.counts_cached else "0"
        args += (counter.kind, reserve[counter.index], *counter.script_args, counts_cached)
    return ScriptCall(keys, args)


def extend_call(reservation: Reservation, attempt: int) -> ScriptCall:
    """Returns the call of extend.lua that reserves money for upstream attempt number `attempt`."""
    keys = [reservation_key(reservation.call_id), *[counter.key for counter in reservation.counters]]
    money = Amounts(0, 0, reservation.reserve.nanousd)
    return ScriptCall(keys, [attempt, reservation.record(), *_counter_args(reservation.counters, money)])


def settle_call(
    reservation: Reservation, used: Amounts, row: UsageRow, *, answer: bytes = b"", ttl_s: int = 0
) -> ScriptCall:
    """Returns the call of settle.lua that ends a call which used `used`; `answer` is cached for `ttl_s`."""
    remember_ms = _QUEUED_SETTLED_MS if reservation.queued else _SETTLED_MS
    return _end_call(reservation, "settled", used, row, remember_ms, answer, max(ttl_s * 1000, 1))


def cancel_call(reservation: Reservation) -> ScriptCall:
    """Returns the call of settle.lua that gives back what a call has reserved that is never made.

    Its row replaces only that of a call that was declared lost although it was refused for want of Redis's answer.
    """
    row = replace(_free_row(reservation), status="error", http_status=503)
    return _end_call(reservation, "cancelled", _ONE_REQUEST, row, _CANCELLED_MS)


def release_call(reservation: Reservation) -> ScriptCall:
    """Returns the call of settle.lua that ends a call which counts as a request, and was otherwise free.

    As for a cancelled call, its row only replaces that of a call that was declared lost.
    """
    row = replace(_free_row(reservation), status="ok", http_status=200)
    return _end_call(reservation, "unrecorded", _ONE_REQUEST, row, _SETTLED_MS)


def lose_call(reservation: Reservation, *, from_cache: bool) -> ScriptCall:
    """Returns the call of settle.lua that ends a call whose worker is gone, at what it had likely used."""
    row, used = reservation.row, reservation.if_lost
    if from_cache:
        row = replace(row, prompt_tokens=0, completion_tokens=0, cost_nanousd=0, cache="hit")
        used = Amounts(used.requests)
    return _end_call(reservation, "lost", used, row, _LOST_MS)


def _free_row(reservation: Reservation) -> UsageRow:
    return replace(reservation.row, prompt_tokens=0, completion_tokens=0, cost_nanousd=0, estimated=False)


class Settlement(msgspec.Struct, frozen=True):
    """A call of settle.lua that waits on disk, as a line of JSON there (in which bytes are base64).

    Version 1, which had no `v`, sent five arguments a counter where there are four now; the script reads both.
    """

    keys: list[bytes]
    args: list[bytes]
    v: int = 1

    @property
    def call_id(self) -> str:
        return self.args[0].decode()

    @property
    def reservation_key(self) -> bytes:
        return self.keys[0]

    @property
    def counter_keys(self) -> list[str]:
        return [key.decode() for key in self.keys[_FIRST_COUNTER:]]

    def first(self) -> ScriptCall:
        """Returns the call as it was to be made."""
        return ScriptCall(self.keys, self.args)

    def repeated(self) -> ScriptCall:
        """Returns the call to make when its reply was perhaps lost: it does nothing if Redis has forgotten the call."""
        call_id, *others = self.args
        if others[:1] == [b"settled"]:
            others[0] = b"replayed"
        return ScriptCall(self.keys, [call_id, *others])


class _Record(msgspec.Struct, frozen=True):
    """Field `d` of a reservation. admit.lua reads `keys`, and settle.lua `args` of a record that an old version made.

    `args` are settle.lua's for the counters of a lost call, `cached_args` those if its answer came from the cache.
    """

    row: UsageRow
    leases: str
    flight: str
    keys: list[str]
    args: list[str | int]
    cached_args: list[str | int]


_decode_record = msgspec.json.Decoder(_Record).decode
_FIRST_COUNTER = 6  # of the keys of settle.lua


def _end_call(
    reservation: Reservation,
    how: str,
    used: Amounts,
    row: UsageRow,
    remember_ms: int,
    answer: bytes = b"",
    keep_ms: int = 1,
) -> ScriptCall:
    cache_key = reservation.cache_key
    keys = [
        reservation_key(reservation.call_id),
        reservations_key(reservation.owner),
        cache_entry_key(cache_key),
        flight_key(cache_key),
        reservation.leases,
        OUTBOX,
        *[counter.key for counter in reservation.counters],
    ]
    args: list[Arg] = [reservation.call_id, how, _encode(row), answer, keep_ms, remember_ms]
    args += _counter_args(reservation.counters, used)
    return ScriptCall(keys, args)


def _counter_args(counters: tuple[Counter, ...], amounts: Amounts) -> list[str | int]:
    """Four a counter: kind, amount, limit, period_ms."""
    args: list[str | int] = []
    for counter in counters:
        args += (counter.kind, amounts[counter.index], *counter.script_args)
    return args

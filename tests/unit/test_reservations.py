"""A call's reservation is given back exactly, whichever of its messages are lost, late, repeated or out of order."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from app.config.gateway import Plan
from app.domain.identity import Caller
from app.domain.limits import Amounts
from app.errors import RateLimited, StoreUnavailable
from app.gateway.admission import Admission, Admitted
from app.gateway.callers import Callers
from app.gateway.deferred import DeferredCall
from app.gateway.heartbeat import Heartbeat
from app.gateway.reaper import Reaper
from app.store.redis.client import Arg, Redis, Script
from app.store.redis.keys import QUEUE, flight_key, reservation_key, reservations_key
from app.store.reservations import Reservation
from tests.support.aging import let_pass
from tests.support.calls import NoKeys
from tests.support.rows import usage_row

PLAN = Plan(
    requests_per_day=1_000,
    tokens_per_minute=1_000_000,
    tokens_per_day=100_000,
    budget_usd_per_month="0.001",
    concurrency=50,
)
CALLER = Caller("key_1", "test")
ANSWER = b'{"choices":[]}'
RESERVED, LIKELY, HIT = Amounts(1, 60, 20_000), Amounts(1, 50, 4_000), Amounts(1)
NOTHING = Amounts(0)


class FaultyNetwork:
    """A network to Redis whose `admitting` drops, delays or repeats an admission's message."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self.admitting: Callable[[Callable[[], Any]], Any] = lambda send: send()

    def script(self, name: str) -> Any:
        script = self._redis.script(name)
        return script if name != "admit" else lambda keys, args: self.admitting(partial(script, keys, args))


class FakeSpool:
    """Settlements go out at once, unless the test holds them back."""

    def __init__(self) -> None:
        self.held_back: list[Callable[[], Any]] = []
        self.deliver: Callable[[Callable[[], Any]], Any] = lambda send: send()

    def settle(self, script: Script, keys: Sequence[Arg], args: Sequence[Arg]) -> None:
        self.deliver(partial(script, list(keys), list(args)))

    keep = settle

    def adopt(self, script: Script) -> None: ...


def no_answer() -> StoreUnavailable:
    error = StoreUnavailable("It was sent; nobody knows.")
    error.perhaps_done = True
    return error


def unanswered(send: Callable[[], Any]) -> Any:
    send()
    raise no_answer()


class ReservationHarness:
    """One worker's admission behind a bad network, and the reaper of the ledger process."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.network = FaultyNetwork(redis)
        self.spool = FakeSpool()
        self.heartbeat = Heartbeat(redis=redis, timeout_s=3 * 3600)
        self.admission = self.on_plan(PLAN)
        self.reaper = Reaper(redis=redis, timeout_s=15, monotonic=lambda: 0.0)

    def on_plan(self, plan: Plan, **more: Any) -> Admission:
        network: Any = self.network
        spool: Any = self.spool
        return Admission(
            redis=network,
            callers=Callers(keys=NoKeys()),
            plans={"default": plan},
            heartbeat=self.heartbeat,
            spool=spool,
            **more,
        )

    def ask(self, call_id: str, **more: Any) -> Reservation:
        row = usage_row(call_id, cost_nanousd=LIKELY.nanousd)
        wanted: dict[str, Any] = {"cache_key": "c", "read_cache": True, "single_flight": True, **more}
        return Reservation(row=row, reserve=RESERVED, if_lost=LIKELY, deadline_s=600, **wanted)

    def admit(self, call_id: str, **more: Any) -> Admitted:
        return self.admission.admit(CALLER, self.ask(call_id, **more))

    def settle(self, admitted: Admitted, used: Amounts) -> None:
        row = usage_row(admitted.reservation.call_id, status="ok", cost_nanousd=used.nanousd)
        self.admission.settle(admitted.reservation, used, row)

    def lose(self) -> int:
        self.heartbeat.beat()
        let_pass(self.redis, 16)
        return self.reaper.run_once()

    def cached(self, *, there: bool) -> None:
        self.redis.execute(*(("SET", "penstock:cache:c", ANSWER) if there else ("DEL", "penstock:cache:c")))

    def counted(self) -> Amounts:
        def total(limit: str) -> int:
            keys = self.redis.execute("KEYS", f"penstock:limit:key_1:{limit}:*")
            return sum(int(self.redis.execute("GET", key)) for key in keys)

        return Amounts(total("requests_per_day"), total("tokens_per_day"), total("budget_usd_per_month"))

    def rows(self) -> dict[str, dict[str, Any]]:
        """As the ledger keeps them: the first of each call, but a lost one gives way."""
        kept: dict[str, dict[str, Any]] = {}
        for _, fields in self.redis.execute("XRANGE", "penstock:outbox", "-", "+"):
            row = json.loads(fields[1])
            if kept.get(row["call_id"], {"status": "lost"})["status"] == "lost":
                kept[row["call_id"]] = row
        return kept

    def state(self, call_id: str) -> Any:
        return self.redis.execute("HGET", reservation_key(call_id), "s")

    def open_calls(self) -> list[bytes]:
        return [
            key
            for key in self.redis.execute("KEYS", "penstock:reservation:*")
            if self.redis.execute("HGET", key, "s") == b"open"
        ]

    def running(self) -> int:
        return int(self.redis.execute("ZCARD", "penstock:running:key_1"))


@pytest.fixture
def harness(redis: Redis) -> Any:
    opened = ReservationHarness(redis)
    yield opened
    opened.heartbeat.stop()


def test_an_undone_cache_hit_gives_back_a_request_and_not_its_ceiling(harness: ReservationHarness) -> None:
    spent = harness.admit("paid", cache_key="")
    harness.settle(spent, Amounts(1, 40, 10_000))
    harness.cached(there=True)
    harness.network.admitting = unanswered
    for number in range(3):
        with pytest.raises(StoreUnavailable):
            harness.admit(f"hit_{number}")
    assert harness.counted() == Amounts(1, 40, 10_000), "what was really paid stays"


def test_an_admission_that_was_carried_out_but_not_answered_leaves_nothing(harness: ReservationHarness) -> None:
    harness.network.admitting = unanswered
    with pytest.raises(StoreUnavailable):
        harness.admit("call")
    assert harness.counted() == NOTHING
    assert (harness.state("call"), harness.running()) == (b"cancelled", 0)
    left = [key for key in harness.redis.execute("KEYS", "penstock:*") if b":limit:" not in key]
    assert sorted(left) == [b"penstock:reservation:call", b"penstock:workers"], "no slot, flight, row, or name"


def test_an_admission_that_arrives_after_it_was_undone_takes_nothing(harness: ReservationHarness) -> None:
    late: list[Callable[[], Any]] = []

    def stuck(send: Callable[[], Any]) -> Any:
        late.append(send)
        raise no_answer()

    harness.network.admitting = stuck
    with pytest.raises(StoreUnavailable):
        harness.admit("late")
    late[0]()
    late[0]()
    assert harness.counted() == NOTHING
    assert (harness.open_calls(), harness.running()) == ([], 0)
    assert harness.redis.execute("EXISTS", flight_key("c")) == 0, "nobody waits for an answer that it never fetches"
    assert harness.redis.execute("ZCARD", reservations_key(harness.heartbeat.worker_id)) == 0
    assert 900 < harness.redis.execute("TTL", reservation_key("late")) <= 3600, "longer than TCP goes on delivering"


def test_a_late_admission_is_refused_as_its_caller_was_told(harness: ReservationHarness) -> None:
    undone = harness.admit("call")
    harness.admission.cancel(undone.reservation)
    with pytest.raises(StoreUnavailable) as caught:
        harness.admit("call")
    assert not caught.value.perhaps_done, "there is nothing to undo"
    assert harness.counted() == NOTHING


def test_a_call_cached_before_its_repeated_admission_reserves_nothing(harness: ReservationHarness) -> None:
    def repeated(send: Callable[[], Any]) -> Any:
        send()
        harness.cached(there=True)
        return send()

    harness.network.admitting = repeated
    call = harness.admit("call")
    assert call.cached == ANSWER
    harness.settle(call, HIT)
    assert (harness.counted(), harness.running()) == (HIT, 0)


def test_a_late_copy_of_an_admission_changes_nothing_for_a_running_call(harness: ReservationHarness) -> None:
    sent: list[Callable[[], Any]] = []

    def copied(send: Callable[[], Any]) -> Any:
        sent.append(send)
        return send()

    harness.network.admitting = copied
    assert harness.admit("call").cached is None
    harness.cached(there=True)
    sent[0]()
    assert harness.running() == 1, "it holds its slot"
    assert harness.lose() == 1
    assert harness.counted() == LIKELY, "it was made: no hit"


def test_a_hit_that_expired_before_its_repeated_admission_is_not_free(harness: ReservationHarness) -> None:
    """It has reserved a request only; to run it, its ceiling would have to be free."""

    def repeated(send: Callable[[], Any]) -> Any:
        send()
        harness.cached(there=False)
        return send()

    harness.cached(there=True)
    harness.network.admitting = repeated
    with pytest.raises(StoreUnavailable):
        harness.admit("call")
    assert harness.counted() == NOTHING
    assert harness.open_calls() == []


def test_a_repeated_admission_of_an_unreadable_record_is_a_503(harness: ReservationHarness) -> None:
    harness.cached(there=True)
    harness.admit("call_1")
    harness.redis.execute(
        "HSET", reservation_key("call_1"), "d", b'{"keys":["penstock:limit:key_1:tokens_per_aeon:x"]}'
    )
    harness.cached(there=False)
    with pytest.raises(StoreUnavailable), capture_logs() as logs:
        harness.admit("call_1")
    assert "reservation_unreadable" in [line["event"] for line in logs]


def test_a_repeated_admission_keeps_its_flight_and_its_slot(harness: ReservationHarness) -> None:
    harness.network.admitting = lambda send: send() and send()
    call = harness.admit("call")
    assert (call.follows, harness.running(), harness.counted()) == (False, 1, RESERVED)
    harness.settle(call, LIKELY)
    assert (harness.counted(), harness.running()) == (LIKELY, 0)


def test_a_settled_call_that_is_admitted_again_holds_no_flight(harness: ReservationHarness) -> None:
    harness.settle(harness.admit("call"), LIKELY)
    with pytest.raises(StoreUnavailable):
        harness.admit("call")
    assert harness.counted() == LIKELY
    assert not harness.admit("another").follows


def test_a_call_lost_before_its_admission_was_repeated_costs_nothing(harness: ReservationHarness) -> None:
    def repeated(send: Callable[[], Any]) -> Any:
        send()
        assert harness.lose() == 1
        return send()

    harness.network.admitting = repeated
    with pytest.raises(StoreUnavailable):
        harness.admit("call")
    assert harness.counted() == HIT, "its row stays, as one request"
    row = harness.rows()["call"]
    assert (row["status"], row["http_status"], row["cost_nanousd"]) == ("error", 503, 0)


def test_an_unanswered_admission_lost_before_its_undoing_costs_nothing(harness: ReservationHarness) -> None:
    harness.network.admitting = unanswered
    harness.spool.deliver = harness.spool.held_back.append
    with pytest.raises(StoreUnavailable):
        harness.admit("call")
    assert harness.lose() == 1
    for send in harness.spool.held_back * 2:
        send()
    assert harness.counted() == HIT, "its row stays, as one request"
    assert harness.rows()["call"]["status"] == "error"
    assert len(harness.redis.execute("XRANGE", "penstock:outbox", "-", "+")) == 2, "undone once"


def test_a_stalled_worker_that_settles_a_lost_hit_charges_a_request(harness: ReservationHarness) -> None:
    harness.cached(there=True)
    call = harness.admit("call")
    assert harness.lose() == 1
    harness.settle(call, HIT)
    assert harness.counted() == HIT


def test_a_batch_line_readmitted_on_another_day_is_charged_to_one_day(harness: ReservationHarness) -> None:
    day = 1_800_000_000.0
    queued = {"cache_key": "", "queued": True, "owner": QUEUE}
    harness.on_plan(PLAN, clock=lambda: day).admit(CALLER, harness.ask("line", **queued))
    tomorrow = harness.on_plan(PLAN, clock=lambda: day + 86_400)
    with pytest.raises(StoreUnavailable):
        tomorrow.admit(CALLER, harness.ask("line", **queued))
    assert harness.counted() == NOTHING
    call = tomorrow.admit(CALLER, harness.ask("line_1", **queued))
    tomorrow.settle(call.reservation, LIKELY, usage_row("line_1", status="ok"))
    assert harness.counted() == LIKELY
    assert harness.redis.execute("ZCARD", reservations_key(QUEUE)) == 0


@pytest.mark.parametrize(
    "later",
    [Plan(), Plan(requests_per_minute=5, requests_per_day=9, tokens_per_day=9, tokens_per_month=9)],
    ids=["limits removed", "limits added"],
)
def test_a_queued_call_settles_on_the_limits_that_it_was_admitted_with(
    harness: ReservationHarness, later: Plan
) -> None:
    call = harness.admit("job", cache_key="", queued=True, owner=QUEUE)
    held = DeferredCall.decode(DeferredCall.of(call.reservation, read_cache=False, write_cache=False).encode())
    harness.on_plan(later).settle(held.reservation(), LIKELY, usage_row("job", status="ok"))
    assert harness.counted() == LIKELY
    assert harness.redis.execute("KEYS", "penstock:limit:*per_month*") == harness.redis.execute(
        "KEYS", "penstock:limit:*budget_usd_per_month*"
    )


@pytest.mark.parametrize("ending", ["settled", "cancelled", "lost"])
def test_what_was_added_to_an_open_reservation_is_given_back_with_it(harness: ReservationHarness, ending: str) -> None:
    call = harness.admit("call", cache_key="")
    taken = json.loads(harness.redis.execute("HGET", reservation_key("call"), "c"))
    names = [counter.limit.name for counter in call.reservation.counters]
    assert dict(zip(names, taken, strict=True)) == {
        "requests_per_day": 1,
        "tokens_per_minute": 60,
        "tokens_per_day": 60,
        "budget_usd_per_month": 20_000,
    }
    taken[-1] += 500
    harness.redis.execute("INCRBY", call.reservation.counters[-1].key, 500)
    harness.redis.execute("HSET", reservation_key("call"), "c", json.dumps(taken))
    if ending == "settled":
        harness.settle(call, Amounts(1, 5, 7))
    elif ending == "cancelled":
        harness.admission.cancel(call.reservation)
    else:
        harness.lose()
    assert harness.counted() == {"settled": Amounts(1, 5, 7), "cancelled": NOTHING, "lost": LIKELY}[ending]


def test_a_queued_call_that_was_cancelled_but_ran_is_charged_once(harness: ReservationHarness) -> None:
    call = harness.admit("job", cache_key="", queued=True, owner=QUEUE)
    harness.admission.cancel(call.reservation)
    assert harness.counted() == NOTHING
    for _ in range(2):
        harness.settle(call, LIKELY)
    assert harness.counted() == LIKELY


def test_amounts_of_any_size_come_back_to_the_nanodollar(harness: ReservationHarness) -> None:
    """cjson writes fourteen digits."""
    rich = harness.on_plan(Plan(budget_usd_per_month="1000000"))
    large = msgspec.structs.replace(harness.ask("call"), reserve=Amounts(1, 0, 999_999_123_456_789))
    call = rich.admit(CALLER, large)
    rich.settle(call.reservation, Amounts(1, 0, 1), usage_row("call", status="ok"))
    assert harness.counted().nanousd == 1


def test_a_reservation_of_the_version_before_is_settled_as_it_was_taken(harness: ReservationHarness) -> None:
    """It has no `c`; what it reserved stands second of five in what its reaper was to be told."""
    harness.redis.execute("INCRBY", "penstock:limit:key_1:tokens_per_day:x", 60)
    old: dict[str, Any] = {
        "row": msgspec.to_builtins(usage_row("old")),
        "leases": "penstock:none",
        "flight": "penstock:none",
        "keys": ["penstock:limit:key_1:tokens_per_day:x"],
        "args": ["window", 60, 50, "1000", "60000"],
        "cached_args": [],
    }
    for end in ("reaper", "spool"):
        harness.redis.execute("HSET", reservation_key("old"), "s", "open", "h", "0", "d", json.dumps(old))
        if end == "reaper":
            harness.redis.execute("ZADD", reservations_key(QUEUE), 1, "old")
            assert harness.reaper.run_once() == 1
            assert harness.counted().tokens == 50
            harness.redis.execute("DEL", reservation_key("old"))
            harness.redis.execute("INCRBY", "penstock:limit:key_1:tokens_per_day:x", 60)
        else:
            keys: list[Arg] = [
                reservation_key("old"),
                reservations_key(QUEUE),
                *["penstock:none"] * 3,
                "penstock:outbox",
                *old["keys"],
            ]
            args: list[Arg] = ["old", "settled", "{}", "", 1, 60_000, "window", 60, 7, "1000", "60000"]
            assert harness.redis.script("settle")(keys, args) == 1
            assert harness.counted().tokens == 57


class BadNetwork:
    """Drops, repeats, delays and reorders what is sent; settlements get through one day, perhaps twice."""

    def __init__(self, harness: ReservationHarness, seed: int) -> None:
        self.desk = harness
        self.chance = random.Random(seed)
        self.late: list[Callable[[], Any]] = []
        harness.network.admitting = self.admit
        harness.spool.deliver = self.settle

    def admit(self, send: Callable[[], Any]) -> Any:
        fate = self.chance.choice(
            ["answered"] * 4 + ["repeated", "repeated late", "no answer", "stuck", "both", "lost"]
        )
        if fate in ("repeated", "no answer", "both"):
            send()
            self.meanwhile()
        if fate in ("stuck", "both"):
            self.late.append(send)
        if fate in ("no answer", "stuck", "both", "lost"):
            raise no_answer()
        reply = send()
        # A copy of what was refused may not come later: there is no undoing of refusals.
        if fate == "repeated late" and reply[0] != b"limited":
            self.late.append(send)
        return reply

    def settle(self, send: Callable[[], Any]) -> None:
        fate = self.chance.choice(["at once", "at once", "late", "twice"])
        if fate != "late":
            send()
        if fate != "at once":
            self.late.append(send)

    def meanwhile(self) -> None:
        """Events between two messages: others arrive, answers come into the cache and expire, calls are lost."""
        while self.late and self.chance.random() < 0.5:
            self.late.pop(self.chance.randrange(len(self.late)))()
        what = self.chance.random()
        if what < 0.3:
            self.desk.cached(there=what < 0.15)
        elif what < 0.4:
            self.desk.lose()


@pytest.mark.parametrize("seed", range(12))
def test_whatever_the_network_does_counters_match_and_nothing_stays_open(
    harness: ReservationHarness, seed: int
) -> None:
    network = BadNetwork(harness, seed)
    owed: dict[str, Amounts] = {}
    running: list[Admitted] = []

    def end(call: Admitted) -> None:
        call_id = call.reservation.call_id
        ending = network.chance.choice(["settled", "settled", "cancelled", "cancelled, but ran", "its worker died"])
        if ending == "cancelled, but ran":
            # Had it been lost first, the queue would not have taken it.
            harness.spool.deliver = lambda send: send()
            if harness.state(call_id) != b"lost":
                harness.admission.cancel(call.reservation)
            harness.spool.deliver = network.settle
        if ending == "cancelled":
            harness.admission.cancel(call.reservation)
            owed[call_id] = NOTHING
        if ending in ("settled", "cancelled, but ran"):
            tokens = network.chance.randrange(90)
            owed[call_id] = HIT if call.cached else Amounts(1, tokens, tokens * 100)
            harness.settle(call, owed[call_id])
        if ending == "its worker died":
            hit = harness.redis.execute("HGET", reservation_key(call_id), "h") == b"1"
            owed[call_id] = HIT if hit else LIKELY

    refused = 0
    for number in range(80):
        try:
            running.append(harness.admit(f"call_{number}", single_flight=network.chance.random() < 0.5))
        except (StoreUnavailable, RateLimited):
            refused += 1
        network.meanwhile()
        while running and network.chance.random() < 0.6:
            end(running.pop(network.chance.randrange(len(running))))
    for call in running:
        end(call)
    network.chance.shuffle(network.late)
    while network.late:
        network.late.pop()()
    harness.lose()
    assert 5 < refused < 75
    _, tokens, nanousd = (sum(amounts[unit] for amounts in owed.values()) for unit in range(3))
    rows = harness.rows()  # also of calls that were lost before they were cancelled: requests that used nothing
    assert harness.counted() == Amounts(len(rows), tokens, nanousd)
    assert sum(row["cost_nanousd"] for row in rows.values()) == nanousd
    assert (harness.open_calls(), harness.running()) == ([], 0)
    assert harness.redis.execute("KEYS", "penstock:reservations:*") == []
    assert harness.redis.execute("EXISTS", flight_key("c")) == 0

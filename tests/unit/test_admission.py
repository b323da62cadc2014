"""Admission takes exactly as much as the call's ending gives back, however the call ends and whatever Redis answers."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from app.config.gateway import Plan
from app.domain.identity import Caller
from app.errors import BudgetExceeded, InvalidApiKey, RateLimited, StoreUnavailable
from app.gateway.admission import Admission, AdmissionRequest, Admitted
from app.gateway.callers import Callers
from app.gateway.heartbeat import Heartbeat
from app.gateway.limits import Amounts
from app.store.keys import Keys
from app.store.redis.client import Arg, Redis, Script
from app.store.spool import Spool
from tests.support.servers import wait_for

NOON = datetime(2026, 2, 28, 12, tzinfo=UTC).timestamp()
CALLER = Caller("key_1", "test")
EVERYTHING = {
    "requests_per_minute": 20,
    "tokens_per_minute": 60_000,
    "requests_per_day": 100,
    "tokens_per_day": 10_000,
    "requests_per_month": 1000,
    "tokens_per_month": 100_000,
    "budget_usd_per_day": 1,
    "budget_usd_per_month": 10,
    "concurrency": 3,
}


class LossyRedis(Redis):
    """A real Redis whose answers to scripts get lost when the test says so: they ran all the same."""

    losing = False

    def script(self, *names: str) -> Script:
        run = super().script(*names)

        def lose(keys: Sequence[Arg], args: Sequence[Arg]) -> Any:
            reply = run(keys, args)
            if self.losing and names == ("admit",):
                lost = StoreUnavailable("no answer")
                lost.perhaps_done = True
                raise lost
            return reply

        return lose  # type: ignore[return-value]


class FakeKeyStore(Keys):
    """The key store: what it says of a key, one answer after the other; the last one stays."""

    def __init__(self) -> None:
        self.says: list[Caller | None] = [None]

    def authenticate(self, key_hash: str) -> Caller | None:
        return self.says.pop(0) if len(self.says) > 1 else self.says[0]


class AdmissionHarness:
    def __init__(self, url: str, directory: Path, plans: dict[str, dict[str, Any]], ids: Iterator[int]) -> None:
        self.redis = LossyRedis(url)
        self.now = NOON
        self.keys = FakeKeyStore()
        self.heartbeat = Heartbeat(redis=self.redis, timeout_s=3600)
        self.spool = directory / "spool"
        self.admission = Admission(
            redis=self.redis,
            callers=Callers(keys=self.keys),
            heartbeat=self.heartbeat,
            clock=lambda: self.now,
            plans={"default": Plan(), **{name: Plan(**plan) for name, plan in plans.items()}},
            spool=Spool(self.spool, name="test", retry_s=0.01),
        )
        self._ids = ids

    def admit(
        self, tokens: int = 0, nanousd: int = 0, *, call_id: str = "", caller: Caller = CALLER, **more: Any
    ) -> Admitted:
        call_id = call_id or f"call_{next(self._ids)}"
        amounts = Amounts(1, tokens, nanousd)
        wanted = {"reserve": amounts, "if_lost": amounts, "deadline_s": 60, **more}
        return self.admission.admit(
            caller, AdmissionRequest(call_id=call_id, row={"call_id": call_id, "model": "m"}, **wanted)
        )

    def settle(self, admitted: Admitted, tokens: int = 0, nanousd: int = 0, **more: Any) -> None:
        row = {"call_id": admitted.ask.call_id}
        self.admission.settle(admitted, Amounts(1, tokens, nanousd), row, **more)

    def holdings(self) -> dict[str, Any]:
        """Everything that calls hold, but for rates, which also change with time: in requests and tokens left."""
        found: dict[str, Any] = {}
        for key in sorted(self.redis.execute("KEYS", "penstock:*")):
            name = key.decode()
            if name.startswith(("penstock:limit:", "penstock:flight:")) and "_minute" not in name:
                found[name] = self.redis.execute("GET", key)
            elif name.startswith(("penstock:running:", "penstock:reservations:")):
                found[name] = self.redis.execute("ZRANGE", key, 0, -1)
        return {name: value for name, value in found.items() if value != b"0"}

    def ahead_ms(self, limit: str) -> float:
        """Returns how far ahead of now a rate has been used up, in milliseconds."""
        until = self.redis.execute("GET", f"penstock:limit:key_1:{limit}")
        seconds, us = self.redis.execute("TIME")
        return max(0.0, (float((until or b"0").partition(b".")[0]) - int(seconds) * 1_000_000 - int(us)) / 1000)

    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(fields[1]) for _, fields in self.redis.execute("XRANGE", "penstock:outbox", "-", "+")]

    def expires_s(self, pattern: str) -> float:
        [key] = self.redis.execute("KEYS", pattern)
        return float(self.redis.execute("PTTL", key)) / 1000


@pytest.fixture
def harness(redis_url: str, tmp_path: Path) -> Iterator[Callable[..., AdmissionHarness]]:
    opened: list[AdmissionHarness] = []
    ids = itertools.count(1)

    def open_with(plans: dict[str, dict[str, Any]] | None = None, **default: Any) -> AdmissionHarness:
        opened.append(AdmissionHarness(redis_url, tmp_path, {"default": default, **(plans or {})}, ids))
        return opened[-1]

    yield open_with
    for each in opened:
        each.heartbeat.stop()
        each.redis.close()


def refusal_of(harness: AdmissionHarness, **ask: Any) -> RateLimited:
    with pytest.raises(RateLimited) as caught:
        harness.admit(**ask)
    return caught.value


# --- an admission of which nobody knows whether it happened


def test_an_admission_with_a_lost_answer_gives_back_exactly_what_it_took(
    harness: Callable[..., AdmissionHarness],
) -> None:
    everything = harness(**EVERYTHING)
    everything.settle(everything.admit(tokens=70, nanousd=700), tokens=70, nanousd=700)
    everything.admit(tokens=500, nanousd=5000, cache_key="other", read_cache=True, single_flight=True)
    before = everything.holdings()
    everything.redis.losing = True
    with pytest.raises(StoreUnavailable):
        everything.admit(tokens=3000, nanousd=40_000, cache_key="c", read_cache=True, single_flight=True)
    everything.redis.losing = False
    wait_for(lambda: everything.holdings() == before, timeout_s=5, message=f"{everything.holdings()} != {before}")
    assert everything.ahead_ms("tokens_per_minute") <= 570, "3,000 more tokens are three more seconds"
    assert everything.ahead_ms("requests_per_minute") <= 6000, "a request is three seconds too"
    assert len(everything.rows()) == 1, "that call never was"
    wait_for(lambda: list(everything.spool.glob("*")) == [], timeout_s=5)
    follows = everything.admit(tokens=1, cache_key="c", read_cache=True, single_flight=True).follows
    assert not follows, "nobody flies for it"


def test_a_queued_admission_with_a_lost_answer_leaves_the_queue_too(harness: Callable[..., AdmissionHarness]) -> None:
    everything = harness(**EVERYTHING)
    everything.admission.begin()
    before = everything.holdings()
    everything.redis.losing = True
    with pytest.raises(StoreUnavailable):
        everything.admit(tokens=30, nanousd=40, queued=True, reservations="penstock:reservations:queue")
    wait_for(lambda: everything.holdings() == before, timeout_s=5, message=f"{everything.holdings()} != {before}")


# --- endings


def test_every_ending_gives_back_what_was_not_used(harness: Callable[..., AdmissionHarness]) -> None:
    everything = harness(**EVERYTHING)
    names = [f"penstock:limit:key_1:{limit}" for limit in ("requests", "tokens", "budget_usd")]
    call = everything.admit(tokens=300, nanousd=4000)
    held = everything.holdings()
    for name, reserved in zip(names, (b"1", b"300", b"4000"), strict=True):
        assert held[f"{name}_per_day:2026-02-28"] == held[f"{name}_per_month:2026-02"] == reserved
    everything.settle(call, tokens=200, nanousd=1000)
    left = everything.holdings()
    for name, used in zip(names, (b"1", b"200", b"1000"), strict=True):
        assert left[f"{name}_per_day:2026-02-28"] == left[f"{name}_per_month:2026-02"] == used
    assert len(left) == 6, "no slot and no open reservation"
    assert everything.ahead_ms("tokens_per_minute") <= 200
    assert everything.ahead_ms("requests_per_minute") <= 3000


def test_a_cancelled_admission_leaves_nothing_not_even_a_row(harness: Callable[..., AdmissionHarness]) -> None:
    everything = harness(**EVERYTHING)
    call = everything.admit(tokens=300, nanousd=4000)
    everything.admission.cancel(call, call.reservations)
    assert everything.holdings() == {}
    assert everything.ahead_ms("tokens_per_minute") == everything.ahead_ms("requests_per_minute") == 0
    assert everything.rows() == []


def test_one_callers_calls_use_nothing_of_anothers(harness: Callable[..., AdmissionHarness]) -> None:
    everything = harness(**EVERYTHING)
    everything.admit(tokens=300)
    mine = everything.holdings()
    everything.settle(everything.admit(tokens=300, caller=Caller("key_2", "other")), tokens=300)
    assert {name: value for name, value in everything.holdings().items() if "key_2" not in name} == mine


# --- what is told


def test_what_remains_of_each_limit_is_told_in_its_own_unit(harness: Callable[..., AdmissionHarness]) -> None:
    call = harness(**EVERYTHING).admit(tokens=6000, nanousd=250_000_000)
    told = {row.limit: (row.unit, row.most, row.left) for row in call.remaining}
    assert told == {
        "requests_per_minute": ("requests", 20, 19),
        "tokens_per_minute": ("tokens", 60_000, 54_000),
        "requests_per_day": ("requests", 100, 99),
        "tokens_per_day": ("tokens", 10_000, 4000),
        "requests_per_month": ("requests", 1000, 999),
        "tokens_per_month": ("tokens", 100_000, 94_000),
        "budget_usd_per_day": ("nanousd", 10**9, 750_000_000),
        "budget_usd_per_month": ("nanousd", 10**10, 9_750_000_000),
    }
    resets = {row.limit: row.reset_s for row in call.remaining}
    assert resets["requests_per_minute"] == pytest.approx(3, abs=0.002)
    assert resets["tokens_per_minute"] == pytest.approx(6, abs=0.002)
    assert resets["tokens_per_day"] == resets["budget_usd_per_day"] == 12 * 3600
    assert resets["tokens_per_month"] == 12 * 3600, "February ends with this day"


def test_a_window_ends_on_the_second_whenever_it_is_asked_for(harness: Callable[..., AdmissionHarness]) -> None:
    everything = harness(**EVERYTHING)
    everything.now = NOON + 0.25
    resets = {row.limit: row.reset_s for row in everything.admit().remaining}
    assert resets["requests_per_day"] == resets["requests_per_month"] == 12 * 3600 - 0.25


def test_each_refusal_names_its_limit_and_says_when_to_come_back(harness: Callable[..., AdmissionHarness]) -> None:
    busy = harness(concurrency=1)
    busy.admit()
    error = refusal_of(busy)
    assert (error.limit, error.retry_after_s, error.retryable) == ("concurrency", 1, True)
    assert "allows 1" in error.message

    rate = harness(tokens_per_minute=60_000)
    rate.admit(tokens=60_000, caller=Caller("key_2", "other"))
    error = refusal_of(rate, tokens=6000, caller=Caller("key_2", "other"))
    assert (error.limit, error.retryable) == ("tokens_per_minute", True)
    assert error.retry_after_s == pytest.approx(6, abs=0.5)
    assert error.remaining[0].left <= 500, "what is left without this call"
    rate.admit(tokens=30_000)
    error = refusal_of(rate, tokens=45_000)
    assert error.remaining[0].left == pytest.approx(30_000, abs=500)
    assert error.remaining[0].reset_s == pytest.approx(30, abs=0.5)
    error = refusal_of(rate, tokens=60_001)
    assert (error.limit, error.retry_after_s, error.retryable) == ("tokens_per_minute", 60, False)

    poor = harness(budget_usd_per_day=1)
    with pytest.raises(BudgetExceeded) as caught:
        poor.admit(nanousd=1_000_000_001)
    assert (caught.value.limit, caught.value.retry_after_s, caught.value.retryable) == ("budget_usd_per_day", 60, False)
    assert "next day" in caught.value.message
    poor.admit(nanousd=1_000_000_000)


def test_a_call_may_use_a_limit_up_to_its_last_unit(harness: Callable[..., AdmissionHarness]) -> None:
    """At the limit is within it: for a rate, a window, a budget and calls at once."""
    exact = harness(tokens_per_minute=60, tokens_per_day=60, budget_usd_per_month="0.00000006", concurrency=1)
    call = exact.admit(tokens=60, nanousd=60)
    assert [row.left for row in call.remaining] == [0, 0, 0]
    assert refusal_of(exact).limit == "concurrency"
    exact.settle(call, tokens=60, nanousd=60)
    assert refusal_of(exact, nanousd=1).limit == "budget_usd_per_month"
    assert refusal_of(exact, tokens=1).limit == "tokens_per_minute", "the first of the limits that refuse"


# --- what is remembered, and for how long


def test_nothing_outlives_its_use(harness: Callable[..., AdmissionHarness]) -> None:
    everything = harness(**EVERYTHING)
    call = everything.admit(tokens=6000, deadline_s=60, cache_key="c", read_cache=True, single_flight=True)
    day_s, week_s = 86_400, 7 * 86_400
    assert everything.expires_s("penstock:limit:*tokens_per_minute") == pytest.approx(6, abs=1)
    assert everything.expires_s("penstock:limit:*requests_per_minute") == pytest.approx(3, abs=1)
    assert everything.expires_s("penstock:limit:*tokens_per_day*") == pytest.approx(12 * 3600 + 2 * day_s, abs=5)
    assert everything.expires_s("penstock:limit:*tokens_per_month*") == pytest.approx(12 * 3600 + 2 * day_s, abs=5)
    assert everything.expires_s("penstock:running:*") == pytest.approx(61, abs=1)
    assert everything.expires_s("penstock:flight:c") == pytest.approx(60, abs=1)
    assert everything.expires_s("penstock:reservation:*") == pytest.approx(week_s + 60, abs=5)
    everything.settle(call, tokens=3000, answer=b"{}", ttl_s=30)
    assert everything.expires_s("penstock:limit:*tokens_per_minute") == pytest.approx(3, abs=1)
    assert everything.expires_s("penstock:cache:c") == pytest.approx(30, abs=1)
    assert everything.redis.execute("EXISTS", "penstock:flight:c") == 0


def test_calls_that_run_at_once_keep_their_slots_by_the_longest_of_them(
    harness: Callable[..., AdmissionHarness],
) -> None:
    busy = harness(concurrency=2)
    busy.admit(deadline_s=10)
    busy.admit(deadline_s=100)
    assert busy.expires_s("penstock:running:*") == pytest.approx(101, abs=1)


def test_a_queued_call_takes_no_slot_and_is_remembered_for_a_day(harness: Callable[..., AdmissionHarness]) -> None:
    queued = harness(concurrency=1, tokens_per_day=100)
    running = queued.admit()
    call = queued.admit(tokens=30, queued=True, reservations="penstock:reservations:queue")
    assert queued.redis.execute("ZRANGE", "penstock:reservations:queue", 0, -1) == [b"call_2"]
    queued.settle(call, tokens=20)
    assert queued.redis.execute("EXISTS", "penstock:reservations:queue") == 0
    assert queued.redis.execute("PTTL", "penstock:reservation:call_2") / 1000 == pytest.approx(86_400, abs=5)
    assert queued.redis.execute("ZCARD", "penstock:running:key_1") == 1
    queued.settle(running)
    assert queued.redis.execute("ZCARD", "penstock:running:key_1") == 0


# --- who is let in


def test_a_key_that_changes_during_its_lookup_is_admitted_as_read_last(
    harness: Callable[..., AdmissionHarness],
) -> None:
    changing = harness(plans={"new": {"tokens_per_day": 7}})
    changing.redis.execute("SET", "penstock:key:h", "what Redis has now")
    known = replace(CALLER, key_hash="h", record=b"old", plan="default")
    changing.keys.says = [replace(known, record=b"newer"), replace(known, record=b"newest", plan="new")]
    call = changing.admit(caller=known)
    assert call.caller.plan == "new"
    assert [row.most for row in call.remaining] == [7]
    changing.keys.says = [replace(known, record=b"newer"), None]
    with pytest.raises(InvalidApiKey):
        changing.admit(caller=known)


def test_a_key_is_held_to_the_plan_that_it_has_now(harness: Callable[..., AdmissionHarness]) -> None:
    two = harness(plans={"small": {"tokens_per_day": 10}, "large": {"tokens_per_day": 1000}})
    assert two.admit(tokens=10, caller=replace(CALLER, plan="small")).remaining[0].left == 0
    assert two.admit(tokens=10, caller=replace(CALLER, plan="large")).remaining[0].left == 980
    assert refusal_of(two, tokens=1, caller=replace(CALLER, plan="small")).limit == "tokens_per_day"


def test_an_answer_from_the_cache_is_told_and_charged_as_one_request(harness: Callable[..., AdmissionHarness]) -> None:
    everything = harness(**EVERYTHING)
    everything.redis.execute("SET", "penstock:cache:c", "{}")
    call = everything.admit(tokens=300, nanousd=4000, cache_key="c", read_cache=True, single_flight=True)
    assert (call.cached, call.follows) == (b"{}", False)
    assert {row.limit: row.most - row.left for row in call.remaining} == {
        limit: 1 if limit.startswith("requests") else 0 for limit in EVERYTHING if limit != "concurrency"
    }
    assert everything.redis.execute("EXISTS", "penstock:flight:c", "penstock:running:key_1") == 0
    everything.settle(call)
    assert set(everything.holdings()) == {
        "penstock:limit:key_1:requests_per_day:2026-02-28",
        "penstock:limit:key_1:requests_per_month:2026-02",
    }
    assert not everything.admit(cache_key="c").cached, "who does not ask for it gets a fresh one"


def test_whoever_holds_the_flight_lets_only_itself_go(harness: Callable[..., AdmissionHarness]) -> None:
    flights = harness()
    first = flights.admit(cache_key="c", read_cache=True, single_flight=True)
    second = flights.admit(cache_key="c", read_cache=True, single_flight=True)
    assert (first.follows, second.follows) == (False, True)
    flights.settle(second)
    assert flights.admit(cache_key="c", read_cache=True, single_flight=True).follows, "the first still flies"
    flights.settle(first)
    assert not flights.admit(cache_key="c", read_cache=True, single_flight=True).follows


def test_an_admission_that_is_sent_twice_still_flies(harness: Callable[..., AdmissionHarness]) -> None:
    flights = harness(**EVERYTHING)
    asked: dict[str, Any] = {
        "cache_key": "c",
        "read_cache": True,
        "single_flight": True,
        "call_id": "same",
        "tokens": 100,
    }
    first = flights.admit(**asked)
    held = flights.holdings()
    second = flights.admit(**asked)
    assert (first.follows, second.follows, flights.holdings() == held) == (False, False, True)
    assert [row.left for row in second.remaining[2:]] == [row.left for row in first.remaining[2:]]

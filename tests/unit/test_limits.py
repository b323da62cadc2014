"""Limits, reservations and settlements: both scripts on a real Redis, through the one door that callers use."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from app.config.gateway import Plan
from app.domain.identity import Caller
from app.errors import BudgetExceeded, InvalidApiKey, RateLimited
from app.gateway.admission import Admission, AdmissionRequest, Admitted
from app.gateway.callers import Callers
from app.gateway.heartbeat import Heartbeat
from app.gateway.limits import LIMITS, Amounts, bind, counters, window_end
from app.gateway.reaper import Reaper
from app.store.keys import Keys
from app.store.redis.client import Arg, Redis
from app.store.redis.keys import reservation_key
from app.store.spool import Spool
from tests.support.aging import let_pass, set_clock_back

NOON = datetime(2026, 2, 28, 12, tzinfo=UTC).timestamp()
CALLER = Caller("key_1", "test")


class NoKeys(Keys):
    def __init__(self) -> None:
        pass

    def authenticate(self, key_hash: str) -> Caller | None:
        return None


class AdmissionHarness:
    """Admission for one plan, with a clock that the test sets (Redis keeps its own)."""

    def __init__(self, redis: Redis, spool: Path, **plan: Any) -> None:
        self.redis = redis
        self.now = NOON
        self.heartbeat = Heartbeat(redis=redis, timeout_s=600)
        self.admission = Admission(
            redis=redis,
            callers=Callers(keys=NoKeys()),
            plans={"default": Plan(**plan)},
            heartbeat=self.heartbeat,
            spool=Spool(spool, name="test"),
            clock=lambda: self.now,
        )
        self._ids = itertools.count(1)

    def admit(
        self, tokens: int = 0, nanousd: int = 0, *, call_id: str = "", caller: Caller = CALLER, **more: Any
    ) -> Admitted:
        amounts = Amounts(1, tokens, nanousd)
        call_id = call_id or f"call_{next(self._ids)}"
        wanted = {"reserve": amounts, "if_lost": amounts, "deadline_s": 60, **more}
        return self.admission.admit(
            caller, AdmissionRequest(call_id=call_id, row={"call_id": call_id, "model": "m"}, **wanted)
        )

    def settle(self, admitted: Admitted, tokens: int = 0, nanousd: int = 0, **more: Any) -> None:
        self.admission.settle(admitted, Amounts(1, tokens, nanousd), {"call_id": admitted.ask.call_id}, **more)

    def lose(self) -> int:
        """The ledger process finds every open call lost."""
        let_pass(self.redis, 3600)
        return Reaper(redis=self.redis, timeout_s=1).run_once()

    def counted(self, limit: str) -> int:
        keys = self.redis.execute("KEYS", f"penstock:limit:key_1:{limit}:*")
        return sum(int(self.redis.execute("GET", key)) for key in keys)

    def rows(self) -> int:
        return int(self.redis.execute("XLEN", "penstock:outbox"))

    def running(self) -> int:
        return int(self.redis.execute("ZCARD", "penstock:running:key_1"))


@pytest.fixture
def admission_with(redis: Redis, tmp_path: Path) -> Iterator[Any]:
    desks: list[AdmissionHarness] = []

    def open_with(**plan: Any) -> AdmissionHarness:
        desks.append(AdmissionHarness(redis, tmp_path / "spool", **plan))
        return desks[-1]

    yield open_with
    for each in desks:
        each.heartbeat.stop()


def refusal_of(admission_with: AdmissionHarness, **ask: Any) -> RateLimited:
    with pytest.raises(RateLimited) as caught:
        admission_with.admit(**ask)
    return caught.value


def test_a_rate_allows_a_burst_of_a_minutes_worth_and_then_refills_evenly(admission_with: Any) -> None:
    limited = admission_with(requests_per_minute=6)  # one comes back every ten seconds
    assert [limited.admit().remaining[0].left for _ in range(6)] == [5, 4, 3, 2, 1, 0]
    error = refusal_of(limited)
    assert error.limit == "requests_per_minute"
    assert error.retry_after_s == pytest.approx(10, abs=1)
    assert error.retryable


def test_what_a_refusal_says_to_wait_is_enough_and_not_much_more(admission_with: Any) -> None:
    limited = admission_with(requests_per_minute=600)  # one every 100 ms
    while True:
        try:
            limited.admit()
        except RateLimited as exc:
            asked_at, wait_s = time.monotonic(), exc.retry_after_s or 0.0
            break
    assert 0 < wait_s <= 0.1
    while time.monotonic() < asked_at + wait_s + 0.002:
        pass  # Redis has its own clock: this one cannot be stepped
    limited.admit()


def test_tokens_given_back_at_settle_can_be_used_at_once(admission_with: Any) -> None:
    limited = admission_with(tokens_per_minute=1000)
    call = limited.admit(tokens=900)
    assert 100 <= call.remaining[0].left <= 101
    assert refusal_of(limited, tokens=200).retry_after_s == pytest.approx(6, abs=0.5), "100 tokens too many"
    limited.settle(call, tokens=100)
    assert 700 <= limited.admit(tokens=200).remaining[0].left <= 720


def test_a_call_that_used_more_than_reserved_is_charged_for_it(admission_with: Any) -> None:
    limited = admission_with(tokens_per_minute=1000, tokens_per_day=5000)
    limited.settle(limited.admit(tokens=100), tokens=2000)
    assert limited.counted("tokens_per_day") == 2000
    assert refusal_of(limited, tokens=1).retry_after_s == pytest.approx(60, abs=1), "never longer than a minute"


def test_several_minutes_worth_of_tokens_are_paid_off_in_full(admission_with: Any) -> None:
    """A time far ahead is no sign of a clock that went back."""
    limited = admission_with(tokens_per_minute=1000)
    calls = [limited.admit(tokens=100) for _ in range(2)]
    for call in calls:
        limited.settle(call, tokens=2500)
    assert refusal_of(limited, tokens=1).remaining[0].reset_s == pytest.approx(300, abs=1)


@pytest.mark.parametrize("hours", [0.1, 24])
def test_a_rate_refills_as_ever_after_redis_clock_went_back(admission_with: Any, hours: float) -> None:
    limited = admission_with(requests_per_minute=6, tokens_per_minute=1000)
    calls = [limited.admit(tokens=100) for _ in range(6)]
    set_clock_back(limited.redis, hours * 3600)
    for _ in range(2):
        assert refusal_of(limited).retry_after_s == pytest.approx(10, abs=1), "not until the clock has caught up"
    for key in limited.redis.execute("KEYS", "penstock:limit:*"):
        assert limited.redis.execute("PTTL", key) <= 60_001, "nor is it as before at the next look"
    set_clock_back(limited.redis, hours * 3600)
    for call in calls:
        limited.settle(call, tokens=50)
    assert refusal_of(limited).remaining[1].left == pytest.approx(700, abs=20), "what was given back counts"


def test_a_worker_clock_that_was_days_ahead_then_counts_each_day_anew(admission_with: Any) -> None:
    limited = admission_with(requests_per_day=3)
    limited.now = NOON + 5 * 86_400
    assert [limited.admit().remaining[0].left for _ in range(3)] == [2, 1, 0]
    for limited.now in (NOON, NOON + 86_400, NOON + 2 * 86_400):
        assert limited.admit().remaining[0].left == 2


def test_a_call_too_large_for_its_plan_need_not_be_tried_again(admission_with: Any) -> None:
    error = refusal_of(admission_with(tokens_per_minute=1000), tokens=1001)
    assert not error.retryable
    assert "1001 tokens" in error.message


def test_a_refused_call_takes_nothing_from_any_limit(admission_with: Any) -> None:
    limited = admission_with(requests_per_minute=10, tokens_per_day=100, concurrency=5, budget_usd_per_month=1)
    error = refusal_of(limited, tokens=101, nanousd=5)
    assert error.limit == "tokens_per_day"
    assert limited.redis.execute("KEYS", "penstock:limit:*") == []
    assert limited.redis.execute("KEYS", "penstock:reservation*") == []
    assert limited.running() == 0
    assert limited.admit().remaining[0].left == 9


def test_a_day_is_exact_and_ends_at_midnight_utc(admission_with: Any) -> None:
    limited = admission_with(requests_per_day=3)
    limited.now = datetime(2026, 2, 28, 23, 59, 30, tzinfo=UTC).timestamp()
    assert [limited.admit().remaining[0].left for _ in range(3)] == [2, 1, 0]
    error = refusal_of(limited)
    assert (error.limit, error.retry_after_s, error.retryable) == ("requests_per_day", 30, False)
    limited.now += 30
    assert limited.admit().remaining[0].left == 2, "a new day"


def test_a_budget_refuses_what_could_exceed_it(admission_with: Any) -> None:
    limited = admission_with(budget_usd_per_month="0.000001")  # 1,000 nano-dollars
    call = limited.admit(nanousd=700)
    with pytest.raises(BudgetExceeded) as caught:
        limited.admit(nanousd=301)
    assert (caught.value.retry_after_s, caught.value.retryable) == (60, False), "no SDK sleeps until next month"
    limited.admit(nanousd=300)
    limited.settle(call, nanousd=50)
    assert limited.admit(nanousd=650).remaining[0].left == 0


def test_windows_are_kept_past_their_end_for_late_settlements(admission_with: Any) -> None:
    limited = admission_with(tokens_per_day=100)
    call = limited.admit(tokens=50)
    (key,) = limited.redis.execute("KEYS", "penstock:limit:*")
    assert limited.redis.execute("TTL", key) > 2 * 86_400
    limited.now += 86_400
    limited.settle(call, tokens=20)
    assert limited.counted("tokens_per_day") == 20, "charged to the day it began"


def test_calls_at_once_are_counted_exactly_and_by_key(admission_with: Any) -> None:
    limited = admission_with(concurrency=2)
    first, _ = limited.admit(), limited.admit()
    error = refusal_of(limited)
    assert (error.limit, error.retry_after_s, error.retryable) == ("concurrency", 1, True)
    limited.admit(caller=Caller("key_2", "another"))
    limited.settle(first)
    limited.admit()
    assert limited.running() == 2


def test_a_slot_whose_call_outlived_its_deadline_is_free(admission_with: Any) -> None:
    limited = admission_with(concurrency=1)
    limited.admit(deadline_s=0.01)
    started = time.monotonic()
    while time.monotonic() < started + 0.02:
        pass
    limited.admit()


def test_admitting_twice_charges_once(admission_with: Any) -> None:
    """A connection that broke after the script ran: the command is sent again."""
    limited = admission_with(requests_per_day=10, concurrency=1, tokens_per_day=100)
    for _ in range(2):
        call = limited.admit(tokens=60, call_id="same")
    assert limited.counted("requests_per_day") == 1
    assert limited.counted("tokens_per_day") == 60
    limited.settle(call, tokens=60)
    assert limited.running() == 0


def test_settling_twice_does_nothing(admission_with: Any) -> None:
    limited = admission_with(tokens_per_day=100, budget_usd_per_month=1)
    call = limited.admit(tokens=50, nanousd=500)
    for _ in range(2):
        limited.settle(call, tokens=10, nanousd=100)
    assert (limited.counted("tokens_per_day"), limited.counted("budget_usd_per_month"), limited.rows()) == (10, 100, 1)
    assert limited.lose() == 0


def test_a_lost_call_is_charged_as_likely_and_corrected_if_only_stalled(admission_with: Any) -> None:
    limited = admission_with(tokens_per_minute=1000, tokens_per_day=1000, budget_usd_per_month=1, concurrency=1)
    call = limited.admit(tokens=100, nanousd=90_000, if_lost=Amounts(1, 80, 8_000))
    assert limited.lose() == 1
    assert (limited.counted("tokens_per_day"), limited.counted("budget_usd_per_month")) == (80, 8_000)
    assert (limited.rows(), limited.running()) == (1, 0)
    limited.settle(call, tokens=70, nanousd=7_000)
    assert (limited.counted("tokens_per_day"), limited.counted("budget_usd_per_month")) == (70, 7_000)
    assert limited.rows() == 2, "the real row replaces the lost one in the ledger"
    assert 930 - 5 <= limited.admit().remaining[0].left <= 940


def test_a_reservation_that_redis_lost_is_charged_at_settle(admission_with: Any, redis: Redis) -> None:
    limited = admission_with(tokens_per_day=1000, requests_per_day=10, concurrency=1)
    call = limited.admit(tokens=500)
    redis.execute("FLUSHALL")
    limited.settle(call, tokens=30)
    assert (limited.counted("tokens_per_day"), limited.counted("requests_per_day"), limited.rows()) == (30, 1, 1)
    limited.settle(call, tokens=30)
    assert (limited.counted("tokens_per_day"), limited.rows()) == (30, 1)
    for key in redis.execute("KEYS", "penstock:*"):
        assert redis.execute("TTL", key) > 0 or key == b"penstock:outbox", "what came back expires too"


def test_a_cached_answer_is_a_request_and_nothing_else(admission_with: Any) -> None:
    limited = admission_with(requests_per_day=2, tokens_per_day=100, budget_usd_per_month="0.000001", concurrency=1)
    first = limited.admit(tokens=100, nanousd=1000, cache_key="c", read_cache=True, single_flight=True)
    assert first.cached is None
    assert not first.follows
    limited.settle(first, tokens=100, nanousd=1000, answer=b"{}", ttl_s=60)
    second = limited.admit(tokens=100, nanousd=1000, cache_key="c", read_cache=True, single_flight=True)
    assert second.cached == b"{}", "although tokens and budget are used up"
    assert limited.running() == 0, "nor does it take a slot"
    limited.settle(second)
    assert (limited.counted("requests_per_day"), limited.counted("tokens_per_day")) == (2, 100)
    assert limited.counted("budget_usd_per_month") == 1000
    assert refusal_of(limited, cache_key="c", read_cache=True).limit == "requests_per_day"


def test_one_call_flies_and_identical_ones_follow_until_it_settles(admission_with: Any) -> None:
    limited = admission_with()
    flying = limited.admit(cache_key="c", read_cache=True, single_flight=True)
    assert limited.admit(cache_key="c", read_cache=True, single_flight=True).follows
    assert not limited.admit(cache_key="other", read_cache=True, single_flight=True).follows
    limited.settle(flying)
    assert not limited.admit(cache_key="c", read_cache=True, single_flight=True).follows, "it kept nothing"


def test_a_key_that_changed_since_it_was_remembered_is_read_again(admission_with: Any, redis: Redis) -> None:
    known = replace(CALLER, key_hash="h", record=b"old")
    redis.execute("SET", "penstock:key:h", "old")
    limited = admission_with()
    limited.admit(caller=known)
    redis.execute("SET", "penstock:key:h", "revoked")
    with pytest.raises(InvalidApiKey):
        limited.admit(caller=known)


def test_every_limit_of_a_plan_is_bound_to_a_counter_of_its_own() -> None:
    everything = Plan(**{limit.name: 7 for limit in LIMITS})
    bound = counters(bind(everything), "key_1", NOON)
    assert [counter.limit for counter in bound] == list(LIMITS)
    assert len({counter.key for counter in bound}) == len(LIMITS)
    assert {counter.most for counter in bound if counter.limit.unit == "nanousd"} == {7_000_000_000}
    others = {"concurrency", "priority"}  # leases, and the queue
    assert set(Plan.model_fields) - {limit.name for limit in LIMITS} == others, "no limit is without effect"


@pytest.mark.parametrize(
    ("period", "at", "ends"),
    [
        ("day", "2026-02-28T23:59:59", "2026-03-01T00:00:00"),
        ("month", "2026-02-01T00:00:00", "2026-03-01T00:00:00"),
        ("month", "2024-12-31T23:59:59", "2025-01-01T00:00:00"),
    ],
)
def test_windows_end_where_the_utc_calendar_says(period: str, at: str, ends: str) -> None:
    start, end = (datetime.fromisoformat(text).replace(tzinfo=UTC) for text in (at, ends))
    assert window_end(period, start) == end.timestamp()


def test_reservations_outlive_their_deadline_and_settled_ones_two_minutes(admission_with: Any, redis: Redis) -> None:
    limited = admission_with()
    call = limited.admit(deadline_s=60)
    assert redis.execute("TTL", reservation_key(call.ask.call_id)) > 86_400
    limited.settle(call)
    assert 100 < redis.execute("TTL", reservation_key(call.ask.call_id)) <= 120


def test_only_an_open_call_can_be_lost(redis: Redis) -> None:
    script = redis.script("settle")
    keys = [f"penstock:{name}" for name in ("reservation", "open", "cache", "flight", "running", "outbox")]
    lost: list[Arg] = ["call_1", "lost", "{}", "", 1, 60_000]
    assert script(keys, lost) == 0, "one that nobody knows"
    redis.execute("HSET", "penstock:reservation", "s", "open")
    assert [script(keys, lost), script(keys, lost)] == [1, 0]
    assert redis.execute("XLEN", "penstock:outbox") == 1

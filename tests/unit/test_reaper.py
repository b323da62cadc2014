"""Calls whose worker died end as one `lost` row each; those of a living worker are left alone."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from app.config.gateway import Plan
from app.domain.identity import Caller
from app.domain.limits import Amounts
from app.errors import StoreUnavailable
from app.gateway.admission import Admission, Admitted
from app.gateway.callers import Callers
from app.gateway.heartbeat import Heartbeat
from app.gateway.reaper import Reaper
from app.store.redis.client import Redis, Script
from app.store.reservations import Reservation
from app.store.spool import Spool
from tests.support.aging import let_pass, set_clock_back
from tests.support.calls import NoKeys
from tests.support.rows import usage_row
from tests.support.servers import ROOT

TIMEOUT_S = 15.0


class ReaperHarness:
    """One worker, and the ledger process's reaper."""

    def __init__(self, redis: Redis, spool: Path) -> None:
        self.redis = redis
        self.monotonic = 0.0  # the ledger process's
        self.worker = Heartbeat(redis=redis, timeout_s=3 * 3600)  # beats when the test says so
        self.reaper = Reaper(redis=redis, timeout_s=TIMEOUT_S, monotonic=lambda: self.monotonic)
        self.admission = Admission(
            redis=redis,
            callers=Callers(keys=NoKeys()),
            heartbeat=self.worker,
            plans={"default": Plan(tokens_per_day=1000, requests_per_day=100, concurrency=10)},
            spool=Spool(spool, name="test"),
        )

    def wait(self, seconds: float) -> None:
        let_pass(self.redis, seconds)
        self.monotonic += seconds

    def admit(self, call_id: str, **more: Any) -> Admitted:
        row = usage_row(call_id, prompt_tokens=40, completion_tokens=10, cost_nanousd=99)
        wanted = {"if_lost": Amounts(1, 50, 99), "deadline_s": 600, **more}
        reservation = Reservation(row=row, reserve=Amounts(1, 60, 0), **wanted)
        return self.admission.admit(Caller("key_1", "test"), reservation)

    def rows(self) -> list[dict[str, Any]]:
        entries = self.redis.execute("XRANGE", "penstock:outbox", "-", "+")
        return [json.loads(fields[1]) for _, fields in entries]

    def tokens(self) -> int:
        (key,) = self.redis.execute("KEYS", "penstock:limit:key_1:tokens_per_day:*")
        return int(self.redis.execute("GET", key))

    def open_calls(self) -> int:
        return len(self.redis.execute("KEYS", "penstock:reservations:*"))


@pytest.fixture
def harness(redis: Redis, tmp_path: Path) -> Iterator[ReaperHarness]:
    opened = ReaperHarness(redis, tmp_path / "spool")
    yield opened
    opened.worker.stop()


def test_a_dead_workers_calls_end_as_lost_once_each(harness: ReaperHarness) -> None:
    for number in range(5):
        harness.admit(f"call_{number}")
    harness.wait(TIMEOUT_S + 1)
    assert harness.reaper.run_once() == 5
    assert harness.reaper.run_once() == 0
    assert sorted(row["call_id"] for row in harness.rows()) == [f"call_{number}" for number in range(5)]
    assert {row["status"] for row in harness.rows()} == {"lost"}
    assert harness.tokens() == 250, "charged as likely"
    assert harness.redis.execute("EXISTS", "penstock:running:key_1") == 0
    assert harness.open_calls() == 0


def test_a_worker_that_shows_a_sign_of_life_keeps_its_calls(harness: ReaperHarness) -> None:
    call = harness.admit("call_1")
    for _ in range(10):
        harness.wait(TIMEOUT_S - 1)
        harness.worker.beat()
        assert harness.reaper.run_once() == 0
    harness.admission.settle(call.reservation, Amounts(1, 7, 0), usage_row(status="ok"))
    assert [row["status"] for row in harness.rows()] == ["ok"]


def test_a_call_past_its_deadline_is_lost_although_its_worker_lives(harness: ReaperHarness) -> None:
    harness.admit("stuck", deadline_s=30)
    harness.admit("running", deadline_s=600)
    harness.wait(31)
    harness.worker.beat()
    assert harness.reaper.run_once() == 1
    assert [row["call_id"] for row in harness.rows()] == ["stuck"]


def test_a_lost_call_that_was_answered_from_the_cache_cost_nothing(harness: ReaperHarness) -> None:
    harness.redis.execute("SET", "penstock:cache:c", "{}")
    call = harness.admit("call_1", cache_key="c", read_cache=True, if_lost=Amounts(1, 20, 99))
    assert call.cached == b"{}"
    harness.wait(TIMEOUT_S + 1)
    harness.reaper.run_once()
    (row,) = harness.rows()
    assert (row["cache"], row["prompt_tokens"], row["completion_tokens"], row["cost_nanousd"]) == ("hit", 0, 0, 0)
    assert harness.redis.execute("KEYS", "penstock:limit:*tokens*") == []


def test_a_lost_call_lets_go_of_its_flight(harness: ReaperHarness) -> None:
    harness.admit("call_1", cache_key="c", read_cache=True, single_flight=True)
    harness.wait(TIMEOUT_S + 1)
    harness.reaper.run_once()
    assert not harness.admit("call_2", cache_key="c", read_cache=True, single_flight=True).follows


def test_nobody_is_declared_dead_for_the_silence_of_a_redis_that_was_away(
    harness: ReaperHarness, dead_redis: Redis
) -> None:
    harness.admit("call_1")
    harness.wait(TIMEOUT_S - 1)
    alive, harness.reaper._redis = harness.reaper._redis, dead_redis
    with pytest.raises(StoreUnavailable):
        harness.reaper.run_once()
    harness.reaper._redis = alive
    harness.wait(2)
    assert harness.reaper.run_once() == 0
    harness.wait(TIMEOUT_S - 2)
    assert harness.reaper.run_once() == 1, "it had the time to show that it lives"


def test_what_a_worker_admits_after_it_was_declared_dead_is_not_forgotten(harness: ReaperHarness) -> None:
    """A worker that was only stalled goes on admitting, and may be killed before it shows a sign of life."""
    harness.admit("call_1")
    harness.wait(TIMEOUT_S + 1)
    assert harness.reaper.run_once() == 1
    harness.admit("call_2")
    assert harness.reaper.run_once() == 1
    assert [row["call_id"] for row in harness.rows()] == ["call_1", "call_2"]


def test_a_worker_that_left_in_good_order_is_forgotten_without_a_word(harness: ReaperHarness) -> None:
    call = harness.admit("call_1")
    harness.admission.settle(call.reservation, Amounts(1, 7, 0), usage_row(status="ok"))
    with capture_logs() as logs:
        harness.wait(TIMEOUT_S + 1)
        assert harness.reaper.run_once() == 0
        harness.wait(7 * 86_400)
        assert harness.reaper.run_once() == 0
    assert harness.redis.execute("EXISTS", "penstock:workers") == 0
    assert logs == []


def test_a_name_whose_reservation_redis_forgot_is_dropped(harness: ReaperHarness) -> None:
    harness.admit("call_1")
    harness.redis.execute("DEL", "penstock:reservation:call_1")
    harness.wait(TIMEOUT_S + 1)
    assert harness.reaper.run_once() == 0
    assert (harness.rows(), harness.open_calls()) == ([], 0)


@pytest.mark.parametrize("damage", ["", '"keys":["penstock:limit:key_1:tokens_per_aeon:x"],', '"status":"unheard-of",'])
def test_a_record_that_cannot_be_read_keeps_no_other_call_open(harness: ReaperHarness, damage: str) -> None:
    """It may be of a version that knows more limits: it stays, and is told once."""
    harness.admit("call_a")
    harness.admit("call_b")
    record = harness.redis.execute("HGET", "penstock:reservation:call_a", "d").decode()
    name = damage.partition(":")[0]
    damaged = re.sub(name + r":(\[[^]]*\]|\"\w+\"),", damage, record, count=1) if damage else record[:-1]
    assert damaged != record
    harness.redis.execute("HSET", "penstock:reservation:call_a", "d", damaged)
    harness.wait(TIMEOUT_S + 1)
    with capture_logs() as logs:
        assert (harness.reaper.run_once(), harness.reaper.run_once()) == (1, 0)
    assert [row["call_id"] for row in harness.rows()] == ["call_b"]
    assert [line["call_id"] for line in logs if line["event"] == "reservation_unreadable"] == ["call_a"]
    harness.redis.execute("HSET", "penstock:reservation:call_a", "d", record)
    assert harness.reaper.run_once() == 1, "nothing is forgotten meanwhile"


def test_a_worker_on_a_machine_whose_clock_is_an_hour_slow_keeps_its_calls(
    harness: ReaperHarness, redis_url: str
) -> None:
    slow = """
import sys, time
now = time.time
time.time = lambda: now() - 3600
from app.gateway.heartbeat import Heartbeat
from app.store.redis.client import Redis
worker = Heartbeat(redis=Redis(sys.argv[1]), timeout_s=600)
worker.beat()
print(worker.worker_id)
"""
    told = subprocess.run([sys.executable, "-c", slow, redis_url], check=True, capture_output=True, text=True, cwd=ROOT)
    harness.worker.worker_id = told.stdout.strip()
    harness.admit("call_1")
    assert harness.reaper.run_once() == 0


def test_a_dead_workers_calls_end_in_time_although_redis_clock_went_back(harness: ReaperHarness) -> None:
    harness.admit("call_1")
    set_clock_back(harness.redis, 3600)
    assert harness.reaper.run_once() == 0
    harness.wait(TIMEOUT_S - 1)
    assert harness.reaper.run_once() == 0, "judged from the step on"
    harness.wait(2)
    assert harness.reaper.run_once() == 1


class RedisAnHourAhead:
    """A Redis whose clock was set an hour forwards."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self.execute = redis.execute
        self.ping = redis.ping

    def pipeline(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        replies = self._redis.pipeline(commands)
        return [
            [int(reply[0]) + 3600, reply[1]] if command == ("TIME",) else reply
            for command, reply in zip(commands, replies, strict=True)
        ]


def test_nobody_is_lost_because_redis_clock_was_set_forwards(harness: ReaperHarness) -> None:
    harness.admit("call_1", deadline_s=7200)
    assert harness.reaper.run_once() == 0
    forwards: Any = RedisAnHourAhead(harness.redis)
    harness.reaper._redis = forwards
    with capture_logs() as logs:
        harness.wait(1)
        assert harness.reaper.run_once() == 0
    assert [entry["event"] for entry in logs] == ["redis_clock_set"]
    harness.wait(TIMEOUT_S - 1)
    assert harness.reaper.run_once() == 0, "it gets the time to show that it lives"
    harness.monotonic += 2
    assert harness.reaper.run_once() == 1, "which it did not"


def test_a_call_that_ends_while_the_reaper_looks_at_it_is_not_called_lost(harness: ReaperHarness) -> None:
    call = harness.admit("call_1")
    settle = harness.reaper._settle

    def too_late(keys: Any, args: Any) -> Any:
        harness.admission.settle(call.reservation, Amounts(1, 7, 0), usage_row(status="ok"))
        return settle(keys, args)

    harness.reaper._settle = cast("Script", too_late)
    harness.wait(TIMEOUT_S + 1)
    with capture_logs() as logs:
        assert harness.reaper.run_once() == 0
    assert "call_lost" not in [entry["event"] for entry in logs]
    assert [row["status"] for row in harness.rows()] == ["ok"]

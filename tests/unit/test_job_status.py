"""A poll's view of a job: each field in each state, its place, its estimate and its times, on a real Redis."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from app.api.jobs import retry_after_s
from app.jobs.queue import estimated_wait_s, job_object
from app.store.job_list import JobList
from app.store.job_records import Job, JobStatus
from app.store.jobs import Jobs
from app.store.redis.client import Redis
from app.store.redis.keys import reservation_key

SHOWN = JobStatus(
    "j1",
    jobs_ahead=3,
    slots=2,
    mean_duration_s=1.5,
    etag='"queued-0---3"',
    state="queued",
    submitted=1_793_534_400.25,
    started=1_793_534_402.5,
    finished=1_793_534_403.75,
    attempts=2,
    http_status=200,
    response=b'{"id":"x"}',
    error=b'{"code":"C"}',
    about=b'{"model":"m","cost_usd":"0.1"}',
    callback_url=b"https://a",
)
BASE = {"request_id": "j1", "created_at": "2026-11-01T12:00:00.250Z", "attempts": 2}
STARTED = {"started_at": "2026-11-01T12:00:02.500Z", "queued_ms": 2250}
ENDED = {**STARTED, "finished_at": "2026-11-01T12:00:03.750Z", "run_ms": 1250}


@pytest.mark.parametrize(
    ("state", "shown"),
    [
        ("queued", {**BASE, "position": 4, "estimated_wait_s": 2.2, "error": {"code": "C"}}),
        ("processing", {**BASE, **STARTED, "error": {"code": "C"}}),
        ("completed", {**BASE, **ENDED, "model": "m", "cost_usd": "0.1", "response": {"id": "x"}}),
        ("failed", {**BASE, **ENDED, "error": {"code": "C"}}),
        ("cancelled", {**BASE, **ENDED}),
    ],
)
def test_each_state_shows_exactly_its_fields(state: str, shown: dict[str, Any]) -> None:
    found = msgspec.json.decode(msgspec.json.encode(job_object(SHOWN._replace(state=state))))
    assert found == {**shown, "status": state}


def test_what_never_ran_has_no_times_of_a_run_and_no_attempts() -> None:
    cancelled = SHOWN._replace(state="cancelled", started=None, attempts=0, error=None)
    assert job_object(cancelled) == {"request_id": "j1", "status": "cancelled", "created_at": BASE["created_at"]}


@pytest.mark.parametrize(
    ("before", "slots", "mean_s", "wait_s"),
    [(6, 2, 1.5, 4.5), (0, 2, 1.5, 0.0), (5, 10, 3.0, 1.5), (6, 0, 1.5, None), (6, 2, None, None)],
)
def test_the_estimate_is_the_jobs_before_over_the_slots_times_the_mean(
    before: int, slots: int, mean_s: float | None, wait_s: float | None
) -> None:
    shown = SHOWN._replace(jobs_ahead=before, slots=slots, mean_duration_s=mean_s)
    assert estimated_wait_s(shown) == wait_s
    assert job_object(shown)["estimated_wait_s"] == wait_s


@pytest.mark.parametrize(
    ("state", "before", "mean_s", "asks_again_s"),
    [
        ("queued", 6, 1.5, 5),
        ("queued", 0, 1.5, 1),
        ("queued", 6, None, 1),
        ("queued", 600, 9.0, 30),
        ("processing", 6, 2.1, 3),
        ("processing", 6, None, 1),
        ("processing", 6, 99.0, 30),
    ],
)
def test_when_asking_again_is_worth_it(state: str, before: int, mean_s: float | None, asks_again_s: int) -> None:
    assert retry_after_s(SHOWN._replace(state=state, jobs_ahead=before, mean_duration_s=mean_s)) == asks_again_s


class QueueHarness:
    """A queue to step through, and Redis's clock."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.jobs = Jobs(redis=redis, max_jobs=500, max_bytes=10**9, lease_s=15)

    def submit(self, job_id: str, owner: str = "a", **more: Any) -> None:
        self.redis.execute("HSET", reservation_key(job_id), "s", "open")
        fields = {
            "key_hash": "hash",
            "endpoint": "chat.completions",
            "model": "m",
            "request": b"req",
            "held": b"{}",
            "priority": 1,
            "most_at_once": "",
            "callback_url": "",
            "keep_s": 7,
            **more,
        }
        outcome, _ = self.jobs.submit(
            job_id,
            owner,
            fields,
            size=3,
            from_reservations="penstock:reservations:w",
            held_s=60,
            to_reservations="penstock:reservations:queue",
            reservation=reservation_key(job_id),
        )
        assert outcome == "queued"

    def claim(self) -> Job:
        job = self.jobs.claim("w", 60)
        assert job is not None
        return job

    def shown(self, job_id: str, owner: str = "a", seen: str = "") -> JobStatus:
        shown = self.jobs.status(job_id, owner, seen)
        assert shown is not None
        return shown

    def now(self) -> float:
        seconds, micros = self.redis.execute("TIME")
        return math.floor((int(seconds) + int(micros) / 1e6) * 1000) / 1000


@pytest.fixture
def queue(redis: Redis) -> QueueHarness:
    return QueueHarness(redis)


def test_a_worker_gets_a_job_as_it_was_submitted(queue: QueueHarness) -> None:
    before = queue.now()
    queue.submit("j1")
    job = queue.claim()
    assert job._replace(submitted=0) == Job(
        "j1", 1, False, "a", "hash", "chat.completions", b"req", b"{}", 0, keep_s=7, last_recorded_attempt=0
    )
    assert before <= job.submitted <= queue.now()


def test_a_poll_shows_each_field_with_its_own_value_through_a_jobs_life(queue: QueueHarness) -> None:
    began = queue.now()
    queue.submit("j1", callback_url="https://a")
    shown = queue.shown("j1")
    assert shown == JobStatus(
        "j1", 0, 0, None, '"queued-0---0"', "queued", submitted=shown.submitted, callback_url=b"https://a"
    )
    assert began <= shown.submitted <= queue.now()

    job = queue.claim()
    claimed = queue.shown("j1")
    assert claimed.started is not None
    assert claimed == JobStatus(
        "j1",
        -1,
        0,
        None,
        claimed.etag,
        "processing",
        submitted=shown.submitted,
        started=claimed.started,
        attempts=1,
        callback_url=b"https://a",
    )
    assert shown.submitted <= claimed.started <= queue.now()
    assert claimed.etag == f'"processing-1-{round(claimed.started * 1000)}---1"'

    fields: dict[str, str | bytes | int] = {"response": b"{}", "http_status": 201, "about": b"[]", "error": "e"}
    assert queue.jobs.finish(job, "completed", fields, keep_s=60) == "completed"
    ended = queue.shown("j1")
    assert ended.finished is not None
    assert ended == claimed._replace(
        etag=ended.etag,
        state="completed",
        finished=ended.finished,
        mean_duration_s=ended.mean_duration_s,
        http_status=201,
        response=b"{}",
        error=b"e",
        about=b"[]",
    )
    assert claimed.started <= ended.finished <= queue.now()
    assert ended.mean_duration_s == pytest.approx(ended.finished - claimed.started, abs=0.002)
    assert len({shown.etag, claimed.etag, ended.etag}) == 3


def test_the_place_counts_own_jobs_before_and_as_many_of_each_other_key(queue: QueueHarness) -> None:
    for owner, count in (("a", 3), ("b", 1), ("c", 5)):
        for number in range(count):
            queue.submit(f"{owner}{number}", owner)
    assert [queue.shown(f"a{number}").jobs_ahead for number in range(3)] == [0 + 1 + 1, 1 + 1 + 2, 2 + 1 + 3]
    assert [queue.shown(f"c{number}", "c").jobs_ahead for number in (0, 4)] == [0 + 1 + 1, 4 + 1 + 3]
    listed = {job.id: job.position for job in JobList(redis=queue.redis).all()}
    assert listed["a2"] == 7
    assert listed["c4"] == 9


def test_slots_are_those_of_the_workers_that_are_alive(queue: QueueHarness) -> None:
    queue.submit("j1")
    queue.jobs.beat("w1", 4, [])
    queue.jobs.beat("w2", 5, [])
    queue.redis.execute("ZADD", "penstock:queue:workers", (queue.now() - 5.5) * 1000, "dead:7")
    assert queue.shown("j1").slots == 9
    depth = queue.jobs.depth()
    assert (depth.workers, depth.slots, depth.waiting, depth.running) == (2, 9, 1, 0)


def test_the_mean_moves_by_a_twentieth_of_the_difference(queue: QueueHarness) -> None:
    queue.redis.execute("HSET", "penstock:queue:facts", "mean_ms", 1000)
    queue.submit("j1")
    job = queue.claim()
    queue.redis.execute("HSET", "penstock:job:j1", "started", round((queue.now() - 21) * 1000))
    queue.jobs.finish(job, "completed", {"response": b"{}"}, keep_s=60)
    assert queue.shown("j1").mean_duration_s == pytest.approx(2.0, abs=0.02)


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_only_completed_jobs_count_for_the_mean(queue: QueueHarness, state: str) -> None:
    queue.submit("j1")
    queue.jobs.finish(queue.claim(), state, {"error": b"{}"}, keep_s=60)
    assert queue.shown("j1").mean_duration_s is None


def test_whoever_has_seen_it_is_shown_only_the_state(queue: QueueHarness) -> None:
    queue.submit("j1")
    tag = queue.shown("j1").etag
    assert queue.shown("j1", seen=f'"x", {tag}') == JobStatus("j1", 0, 0, None, tag, "queued", not_modified=True)
    queue.claim()
    assert not queue.shown("j1", seen=tag).not_modified


def test_another_keys_job_is_not_there(queue: QueueHarness) -> None:
    queue.submit("j1")
    assert queue.jobs.status("j1", "b") is None
    assert queue.jobs.status("j2", "a") is None


def test_an_operator_sees_each_field_with_its_own_value(queue: QueueHarness) -> None:
    queue.submit("j1", callback_url="https://a")
    job = queue.claim()
    queue.jobs.finish(job, "failed", {"error": b"{}", "http_status": 502}, keep_s=60)
    found = JobList(redis=queue.redis).find("j1")
    shown = queue.shown("j1")
    assert found is not None
    assert found._asdict() == {
        "id": "j1",
        "state": "failed",
        "key_id": "a",
        "model": "m",
        "endpoint": "chat.completions",
        "submitted": shown.submitted,
        "started": shown.started,
        "finished": shown.finished,
        "attempts": 1,
        "http_status": 502,
        "error": b"{}",
        "worker": "",
        "callback_url": "https://a",
        "size": 3,
        "position": None,
    }


def test_the_oldest_waiting_jobs_age_is_by_redis_own_clock(
    queue: QueueHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.submit("j1")
    queue.redis.execute("ZADD", "penstock:queue:waiting", (queue.now() - 12) * 1000, "j1")
    assert queue.jobs.depth().oldest_s == pytest.approx(12, abs=0.5)

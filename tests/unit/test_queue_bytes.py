"""The queue's part of Redis's memory: its bound, each key's share, and the return of everything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from app.store.job_records import Job
from app.store.jobs import Jobs
from app.store.redis.client import Redis
from app.store.redis.keys import reservation_key
from tests.support.servers import wait_for

MB = 1024 * 1024
MOST = 16 * MB


@pytest.fixture
def jobs(redis: Redis) -> Jobs:
    return Jobs(redis=redis, max_jobs=500, max_bytes=MOST, lease_s=15)


@pytest.fixture
def submit(redis: Redis, jobs: Jobs) -> Callable[..., str]:
    def submit(job_id: str, owner: str = "a", size: int = 10, **more: Any) -> str:
        redis.execute("HSET", reservation_key(job_id), "s", "open")
        fields: dict[str, str | bytes | int] = {
            "key_hash": "h",
            "endpoint": "chat.completions",
            "model": "m",
            "request": b"x" * size,
            "held": b"{}",
            "priority": 1,
            "most_at_once": "",
            "callback_url": "",
            "keep_s": 0,
        }
        outcome, _ = jobs.submit(
            job_id,
            owner,
            fields,
            size=size,
            from_reservations="penstock:reservations:w",
            to_reservations="penstock:reservations:queue",
            reservation=reservation_key(job_id),
            held_s=60,
            **more,
        )
        return outcome

    return submit


def claim(jobs: Jobs) -> Job:
    job = jobs.claim("w", 60)
    assert job is not None
    return job


def complete(jobs: Jobs, job: Job, size: int, *, keep_s: float = 60) -> str:
    return jobs.finish(job, "completed", {"response": b"y" * size, "http_status": 200, "error": ""}, keep_s=keep_s)


def held_bytes(redis: Redis) -> int:
    return int(redis.execute("HGET", "penstock:queue:facts", "bytes") or 0)


def test_the_answers_of_one_key_leave_the_others_room_and_their_jobs_run(
    redis: Redis, jobs: Jobs, submit: Callable[..., str]
) -> None:
    kept = []
    for number in range(40):
        assert submit(f"greedy-{number}", "greedy") in ("queued", "share")
    while (job := jobs.claim("w", 60)) is not None:
        kept.append(complete(jobs, job, MB))
        if kept[-1] == "full":
            jobs.finish(job, "failed", {"error": b"{}", "http_status": 503}, keep_s=60)
    assert (kept.count("completed"), kept.count("full")) == (11, 29)  # three quarters of 16 MB
    assert held_bytes(redis) < MOST * 3 / 4
    for number in range(8):
        assert submit(f"late-{number}", "late") == "queued"
        assert complete(jobs, claim(jobs), 100_000) == "completed"
    assert submit("greedy-more", "greedy") == "share"


def test_a_lone_key_gets_half_of_the_queue_and_the_next_half_of_the_rest(
    submit: Callable[..., str],
) -> None:
    taken = {owner: sum(submit(f"{owner}{i}", owner, MB) == "queued" for i in range(20)) for owner in ("a", "b", "c")}
    assert taken == {"a": 7, "b": 4, "c": 2}


def test_a_running_job_still_takes_the_bytes_of_its_request(
    redis: Redis, jobs: Jobs, submit: Callable[..., str]
) -> None:
    assert submit("a", size=MB) == "queued"
    before = held_bytes(redis)
    claim(jobs)
    assert held_bytes(redis) == before > MB


def test_a_result_gives_its_bytes_back_when_it_expires(redis: Redis, jobs: Jobs, submit: Callable[..., str]) -> None:
    assert submit("a") == "queued"
    assert complete(jobs, claim(jobs), MB, keep_s=0.05) == "completed"
    assert held_bytes(redis) > MB
    wait_for(lambda: redis.execute("EXISTS", "penstock:job:a") == 0)
    jobs.beat("w", 1, [])
    assert held_bytes(redis) == 0
    assert redis.execute("KEYS", "penstock:queue:s*") == redis.execute("KEYS", "penstock:queue:results") == []


def test_expired_jobs_leave_a_full_share_before_anything_is_refused(
    redis: Redis, jobs: Jobs, submit: Callable[..., str]
) -> None:
    """Without a worker that beats."""
    assert submit("a", size=7 * MB) == "queued"
    assert complete(jobs, claim(jobs), 7 * MB, keep_s=0.05) == "completed"
    wait_for(lambda: redis.execute("EXISTS", "penstock:job:a") == 0)
    assert submit("b", size=7 * MB) == "queued"


@pytest.mark.parametrize("end", ["forget", "cancel", "fail"])
def test_whatever_ends_a_job_gives_its_bytes_back(
    redis: Redis, jobs: Jobs, submit: Callable[..., str], end: str
) -> None:
    assert submit("a", size=MB, idempotency="penstock:idempotency:a", remember="x:a", remember_s=60) == "queued"
    if end == "cancel":
        assert jobs.cancel("a", "a", keep_s=1) == ("cancelled", b"{}")
    elif end == "fail":
        assert jobs.finish(claim(jobs), "failed", {"error": b"{}", "http_status": 500}, keep_s=1) == "failed"
    else:
        assert complete(jobs, claim(jobs), MB) == "completed"
        jobs.forget(["a"], ["penstock:idempotency:a"])
        assert redis.execute("KEYS", "penstock:idempotency:*") == redis.execute("KEYS", "penstock:job:*") == []
    assert held_bytes(redis) <= 2100


def test_what_is_counted_can_be_counted_anew_from_the_jobs(
    redis: Redis, jobs: Jobs, submit: Callable[..., str]
) -> None:
    """As after an upgrade, or a Redis that lost its last second."""
    for number in range(3):
        assert submit(f"a{number}", size=MB) == "queued"
    complete(jobs, claim(jobs), 2 * MB)
    claim(jobs)
    before = held_bytes(redis)
    redis.execute("DEL", "penstock:queue:sizes")
    redis.execute("HSET", "penstock:queue:shares", "nobody", 5)
    redis.execute("HINCRBY", "penstock:queue:facts", "bytes", 12345)
    assert jobs.recount() == held_bytes(redis) == before
    assert redis.execute("HGETALL", "penstock:queue:shares") == [b"a", str(before).encode()]


def test_small_results_are_counted_with_what_redis_itself_needs_for_them(
    redis: Redis, jobs: Jobs, submit: Callable[..., str]
) -> None:
    # What the test before has left is freed by a thread, perhaps not yet.
    wait_for(lambda: "lazyfree_pending_objects:0" in str(redis.execute("INFO", "memory")))
    before, _ = redis.memory()
    for number in range(500):
        assert submit(f"req_{number:024}", size=100) == "queued"
        complete(jobs, claim(jobs), 100)
    used, _ = redis.memory()
    assert (used - before) / held_bytes(redis) == pytest.approx(1, abs=0.35)


@pytest.fixture
def full_redis(redis: Redis) -> Any:
    """Makes Redis refuse what takes memory, and lets it again at the end."""
    yield lambda: redis.execute("CONFIG", "SET", "maxmemory", "1mb")
    redis.execute("CONFIG", "SET", "maxmemory", "0")


def test_a_full_redis_takes_an_end_without_an_answer_and_the_next_job(
    redis: Redis, jobs: Jobs, submit: Callable[..., str], full_redis: Callable[[], None]
) -> None:
    for name in ("a", "b", "c"):
        assert submit(name) == "queued"
    first = claim(jobs)
    full_redis()
    assert complete(jobs, first, MB) == "full"
    assert redis.execute("HGET", "penstock:job:a", "state") == b"processing"
    assert jobs.beat("w", 1, [("a", 1)]).attempts_to_end == []
    assert jobs.finish(first, "failed", {"error": b"{}", "http_status": 503}, keep_s=60) == "failed"
    assert jobs.finish(claim(jobs), "queued", {"error": b"{}"}, keep_s=60) == "queued"
    assert jobs.cancel("c", "a", keep_s=60) == ("cancelled", b"{}")

"""The queue when things go wrong beside it: commands arrive twice, answers are too many, Redis is full, workers die."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from app.errors import StoreUnavailable
from app.gateway.deferred import DeferredCall
from app.store.redis.client import Redis
from tests.api.conftest import AppClient
from tests.api.test_jobs import ANSWERED, DEMO, JobWorker, ask, job_of, open_reservations, submit, waits_again

LONG = "y" * 400_000
TWO = f"""
providers:
  long: {{kind: demo, script: {{reply: {LONG}, prompt_tokens: 7, completion_tokens: 5}}}}
  short: {{kind: demo, script: {{{ANSWERED}}}}}
models:
  long: {{targets: [{{provider: long}}]}}
  m: {{targets: [{{provider: short}}]}}
queue: {{max_bytes: 2000000}}
"""


@pytest.fixture
def build_client(client_with: Callable[[str], AppClient]) -> Callable[..., AppClient]:
    def build(script: str = ANSWERED, more: str = "") -> AppClient:
        return client_with(DEMO.format(script=script) + more)

    return build


@pytest.fixture
def send_twice(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From now on each script is carried out twice: the answer to the first time was lost with its connection."""

    def begin() -> None:
        once = Redis.execute

        def execute(self: Redis, *command: Any) -> Any:
            if command[0] == "EVALSHA":
                once(self, *command)
            return once(self, *command)

        monkeypatch.setattr(Redis, "execute", execute)

    return begin


def held_bytes(client: AppClient) -> int:
    return int(client.services.redis.execute("HGET", "penstock:queue:facts", "bytes") or 0)


def own_list(client: AppClient) -> list[bytes]:
    found: list[bytes] = client.services.redis.execute("ZRANGE", "penstock:queue:of:dev", 0, -1)
    return found


def test_jobs_whose_every_command_arrives_twice_run_once_and_leave_nothing(
    build_client: Callable[..., AppClient], send_twice: Callable[[], None]
) -> None:
    client = build_client(more="queue: {result_ttl_s: 1}\n")
    submit(client)  # scripts are loaded
    JobWorker(client).run()
    send_twice()
    ids = [job_of(submit(client, headers={"Idempotency-Key": str(number)} if number else None)) for number in range(2)]
    assert client.services.queue.depth().waiting == 2
    assert len(client.asked) == 1
    JobWorker(client).run()
    assert len(client.asked) == 3
    assert [ask(client, job_id).json["attempts"] for job_id in ids] == [1, 1]
    assert (client.services.queue.depth().running, own_list(client), open_reservations(client)) == (0, [], [])
    assert sorted(row["status"] for row in client.rows()) == ["ok"] * 3


def test_a_repeated_submit_takes_its_bytes_once_also_for_a_running_job(
    build_client: Callable[..., AppClient], send_twice: Callable[[], None]
) -> None:
    client = build_client()
    for times in (0, 1):
        before = held_bytes(client)
        job_id = job_of(submit(client, "x" * 1000))
        once = held_bytes(client) - before
        if not times:
            expected = once
            send_twice()
        assert once == pytest.approx(expected, abs=50)  # times are a digit longer or shorter
        assert ask(client, job_id, method="DELETE").status_code == 200


def test_a_repeated_cancellation_is_answered_as_one_and_settled_once(
    build_client: Callable[..., AppClient], send_twice: Callable[[], None]
) -> None:
    client = build_client(more="plans: {default: {tokens_per_day: 1000}}\n")
    job_id = job_of(submit(client))
    send_twice()
    answer = ask(client, job_id, method="DELETE")
    assert (answer.status_code, answer.json["status"]) == (200, "cancelled")
    assert open_reservations(client) == []
    [row] = client.rows()
    assert (row["status"], row["http_status"]) == ("aborted", 499)
    assert ask(client, job_id, method="DELETE").status_code == 409


def test_a_cancelled_job_of_a_dead_gateway_is_settled_by_a_worker_for_free(
    build_client: Callable[..., AppClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = build_client(more="plans: {default: {tokens_per_day: 1000}}\n")
    job_id = job_of(submit(client))
    jobs = client.services.queue.jobs
    state, held = jobs.cancel(job_id, "dev", keep_s=60)
    assert (state, DeferredCall.decode(held or b"").row["call_id"]) == ("cancelled", job_id)
    worker = JobWorker(client)
    worker.runner.beat()
    assert len(open_reservations(client)) == 1, "the gateway gets the time to do it"
    client.services.redis.execute("ZADD", "penstock:queue:unsettled", 1, job_id)
    worker.runner.beat()
    assert open_reservations(client) == []
    assert [(row["status"], row["cost_nanousd"]) for row in client.rows()] == [("aborted", 0)]
    [tokens] = client.keys("penstock:limit:dev:tokens_per_day:*")
    assert client.services.redis.execute("GET", tokens) == b"0"
    assert client.keys("penstock:queue:unsettled") == []


def test_a_claim_with_a_lost_answer_costs_the_job_no_attempt_and_no_lease(
    build_client: Callable[..., AppClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = build_client(more="queue: {max_attempts: 1}\n")
    job_id = job_of(submit(client))
    worker, jobs = JobWorker(client), client.services.queue.jobs
    claim = jobs.claim

    def unanswered(*args: Any) -> Any:
        claim(*args)
        raise StoreUnavailable("Away.")

    with monkeypatch.context() as patch:
        patch.setattr(jobs, "claim", unanswered)
        worker.run()
    assert ask(client, job_id).json["status"] == "processing"
    worker.runner.beat()
    again = ask(client, job_id).json
    assert (again["status"], again.get("attempts")) == ("queued", None)
    worker.run()
    assert ask(client, job_id).json["status"] == "completed"


def test_too_many_long_answers_of_one_key_fail_its_own_jobs_only(client_with: Callable[[str], AppClient]) -> None:
    found = client_with(TWO)
    other, _ = found.services.keys.create("other")
    worker = JobWorker(found)
    ids = [job_of(submit(found, model="long")) for _ in range(10)]
    worker.run()
    ended = [ask(found, job_id).json for job_id in ids]
    kept = [job for job in ended if job["status"] == "completed"]
    failed = [job for job in ended if job["status"] == "failed"]
    assert (len(kept), len(failed)) == (3, 7)
    assert {job["error"]["code"] for job in failed} == {"QUEUE_FULL"}
    assert all("is charged" in job["error"]["message"] for job in failed)
    assert [row["status"] for row in found.rows()] == ["ok"] * 10, "the vendor answered each"
    assert open_reservations(found) == []
    done = [job_of(submit(found, key=other)) for _ in range(5)]
    worker.run()
    assert {ask(found, job_id, key=other).json["status"] for job_id in done} == {"completed"}
    refused = submit(found, model="long")
    assert (refused.status_code, refused.json["code"]) == (503, "QUEUE_FULL")
    assert "This key's" in refused.json["error"]["message"]
    assert held_bytes(found) < 2_000_000


@pytest.fixture
def fill_redis(redis_url: str) -> Iterator[Callable[[], None]]:
    client = Redis(redis_url)
    yield lambda: client.execute("CONFIG", "SET", "maxmemory", "1mb")
    client.execute("CONFIG", "SET", "maxmemory", "0")
    client.close()


def test_an_answer_that_a_full_redis_refuses_fails_its_job_not_its_worker(
    build_client: Callable[..., AppClient], fill_redis: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = build_client()
    first, second = job_of(submit(client)), job_of(submit(client))
    fill_redis()
    ticks = iter(range(100))
    worker = JobWorker(client, now=lambda: 0.0)

    def pause(_: float) -> None:
        next(ticks)  # a worker that waits for ever runs out of them

    worker.runner._pause = pause
    worker.run()
    failed = [ask(client, job_id).json for job_id in (first, second)]
    assert [(job["status"], job["error"]["code"]) for job in failed] == [("failed", "QUEUE_FULL")] * 2
    assert next(ticks) < 10


def test_what_a_job_holds_is_stored_anew_when_its_attempt_is_put_off(
    build_client: Callable[..., AppClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Redis keys in which attempts leave their cost."""
    client = build_client(
        script=f"fail_status: 503, fail_times: 1, {ANSWERED}",
        more="retry: {max_attempts: 1}\nqueue: {retry_backoff_s: 0}\n",
    )
    resume, seen = client.services.pipeline.resume, []

    def noting(caller: Any, request: Any, held: DeferredCall, *args: Any, **more: Any) -> Any:
        seen.append(held.row.get("tags"))
        held.row["tags"] = f"attempt={len(seen)}"
        return resume(caller, request, held, *args, **more)

    monkeypatch.setattr(type(client.services.pipeline), "resume", lambda _, *args, **more: noting(*args, **more))
    worker = JobWorker(client)
    job_id = job_of(submit(client))
    worker.run()
    stored = client.services.redis.execute("HGET", f"penstock:job:{job_id}", "held")
    assert json.loads(stored)["row"]["tags"] == "attempt=1"
    waits_again(client, worker)
    worker.run()
    assert seen == ["", "attempt=1"]
    assert ask(client, job_id).json["status"] == "completed"


def test_an_attempt_knows_how_many_before_it_ended_without_a_word(build_client: Callable[..., AppClient]) -> None:
    client = build_client(script="fail_status: 503", more="retry: {max_attempts: 1}\nqueue: {retry_backoff_s: 0}\n")
    jobs, worker = client.services.queue.jobs, JobWorker(client)
    job_id = job_of(submit(client))
    worker.run()  # put off: recorded
    waits_again(client, worker)
    second = jobs.claim("dies", 60)
    assert second is not None
    assert (second.attempt, second.last_recorded_attempt, second.unrecorded_attempts) == (2, 1, 0)
    client.services.redis.execute("ZADD", "penstock:queue:running", 1, job_id)  # its lease has passed
    worker.runner.beat()
    third = jobs.claim("w", 60)
    assert third is not None
    assert (third.attempt, third.last_recorded_attempt, third.unrecorded_attempts) == (3, 1, 1)
    assert jobs.finish(third, "queued", {}, keep_s=0) == "queued"
    waits_again(client, worker)
    fourth = jobs.claim("w", 60)
    assert fourth is not None
    assert (fourth.attempt, fourth.last_recorded_attempt, fourth.unrecorded_attempts) == (4, 3, 0)


@pytest.mark.parametrize("ends", ["ok", "error"])
def test_an_attempt_that_ended_with_its_worker_is_charged_as_likely_once(
    build_client: Callable[..., AppClient], ends: str
) -> None:
    client = build_client(more=f"queue: {{retry_backoff_s: 0, max_attempts: {3 if ends == 'ok' else 1}}}\n")
    jobs, worker = client.services.queue.jobs, JobWorker(client)
    job_id = job_of(submit(client, max_tokens=50))
    dying = jobs.claim("dies", 60)
    assert dying is not None
    likely = DeferredCall.decode(dying.deferred_call).if_lost.nanousd
    assert likely > 0
    client.services.redis.execute("ZADD", "penstock:queue:running", 1, job_id)  # its lease has passed
    worker.runner.beat()
    worker.run()
    [row] = client.rows()
    answered = 7 * 1000 + 5 * 2000 if ends == "ok" else 0
    assert (row["status"], row["cost_nanousd"]) == (ends, likely + answered)
    assert open_reservations(client) == []

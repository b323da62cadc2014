"""Queued calls, submitted over HTTP and run by a worker's runner in this process, on a real Redis."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import dramatiq
import pytest
from dramatiq.brokers.redis import RedisBroker

from app.jobs.runner import JobRunner
from app.store.redis import keys
from tests.api.conftest import AppClient
from tests.support.response import AppResponse
from tests.support.servers import wait_for

DEMO = "providers:\n  a: {{kind: demo, script: {{{script}}}}}\nmodels:\n  m:\n    targets: [{{provider: a}}]\n"
ANSWERED = "prompt_tokens: 7, completion_tokens: 5"


class JobWorker:
    """A job runner with a clock to step; `run` answers one wake-up message."""

    def __init__(self, client: AppClient, *, name: str = "w1", now: Callable[[], float] = time.time) -> None:
        found = client.services
        self.runner = JobRunner(
            jobs=found.queue.jobs,
            pipeline=found.pipeline,
            callers=found.callers,
            config=found.settings.config,
            worker_id=name,
            slots=4,
            has_other_messages=lambda: False,
            clock=now,
            pause=lambda _: None,
        )

    def run(self) -> None:
        self.runner.run_jobs()


@pytest.fixture
def build_client(client_with: Callable[[str], AppClient]) -> Callable[..., AppClient]:
    """The application with one demo model `m`."""

    def build(script: str = ANSWERED, more: str = "") -> AppClient:
        return client_with(DEMO.format(script=script) + more)

    return build


def started(client: AppClient, worker: JobWorker) -> threading.Thread:
    """`worker` in a thread, with its job's upstream call on its way."""
    running = threading.Thread(target=worker.run)
    running.start()
    wait_for(lambda: client.asked)
    return running


def submit(
    client: AppClient,
    content: str = "Hi",
    *,
    key: str | None = None,
    headers: dict[str, str] | None = None,
    **more: Any,
) -> AppResponse:
    body = {"model": "m", "messages": [{"role": "user", "content": content}], **more}
    return client.post(json.dumps(body), key=key, headers=headers, path="/v1/chat/async")


def ask(client: AppClient, job_id: str, *, method: str = "GET", key: str | None = None, **headers: str) -> AppResponse:
    sent = {"Authorization": f"Bearer {key or client.key}", **{k.replace("_", "-"): v for k, v in headers.items()}}
    answer: AppResponse = client._client.open(f"/v1/requests/{job_id}", method=method, headers=sent)
    return answer


def job_of(answer: AppResponse) -> str:
    assert answer.status_code == 202, answer.text
    return str(answer.json["request_id"])


def open_reservations(client: AppClient) -> list[bytes]:
    return [
        call
        for key in client.keys("penstock:reservations:*")
        for call in client.services.redis.execute("ZRANGE", key, 0, -1)
    ]


def test_a_submitted_call_is_queued_run_and_shown_with_timings_and_cost(build_client: Callable[..., AppClient]) -> None:
    client = build_client()
    answer = submit(client)
    job_id = job_of(answer)
    assert answer.json == {"request_id": job_id, "status": "queued", "status_url": f"/v1/requests/{job_id}"}
    assert answer.headers["Location"] == f"/v1/requests/{job_id}"
    assert answer.headers["Retry-After"] == "1"
    queued = ask(client, job_id)
    assert (queued.json["status"], queued.json["position"]) == ("queued", 1)
    assert 1 <= int(queued.headers["Retry-After"]) <= 30

    JobWorker(client).run()

    done = ask(client, job_id).json
    assert done["status"] == "completed"
    assert done["response"]["choices"][0]["message"]["role"] == "assistant"
    assert done["response"]["usage"]["total_tokens"] == 12
    assert (done["model"], done["provider"], done["attempts"]) == ("m", "a", 1)
    assert done["cost_usd"] == "0.000017"
    assert done["queued_ms"] >= 0
    assert done["run_ms"] >= 0
    assert done["created_at"] <= done["started_at"] <= done["finished_at"]


def test_a_job_is_one_row_and_leaves_nothing_reserved(build_client: Callable[..., AppClient]) -> None:
    client = build_client(more="plans: {default: {tokens_per_day: 100000, budget_usd_per_month: 1}}\n")
    job_id = job_of(submit(client, max_tokens=50))
    assert open_reservations(client) == [job_id.encode()]
    JobWorker(client).run()
    [row] = client.rows()
    assert (row["call_id"], row["job_id"], row["status"]) == (job_id, job_id, "ok")
    assert (row["prompt_tokens"], row["completion_tokens"], row["cost_nanousd"]) == (7, 5, 17_000)
    assert open_reservations(client) == []
    [tokens] = client.keys("penstock:limit:dev:tokens_per_day:*")
    [spent] = client.keys("penstock:limit:dev:budget_usd_per_month:*")
    assert client.services.redis.execute("MGET", tokens, spent) == [b"12", b"17000"]


def test_limits_hold_when_a_call_is_submitted_not_when_it_runs(build_client: Callable[..., AppClient]) -> None:
    client = build_client(more="plans: {default: {requests_per_day: 2}}\n")
    assert [submit(client).status_code for _ in range(3)] == [202, 202, 429]
    JobWorker(client).run()
    assert [row["status"] for row in client.rows()] == ["ok", "ok"]


def test_the_same_idempotency_key_is_the_same_job(build_client: Callable[..., AppClient]) -> None:
    client = build_client()
    once = {"Idempotency-Key": "order-7"}
    first, again = submit(client, headers=once), submit(client, headers=once)
    assert job_of(first) == job_of(again)
    JobWorker(client).run()
    third = submit(client, headers=once)
    assert third.json["status"] == "completed"
    assert len(client.rows()) == 1
    other = submit(client, "Something else", headers=once)
    assert (other.status_code, other.json["error"]["param"]) == (409, "Idempotency-Key")
    assert other.headers["x-should-retry"] == "false"
    assert open_reservations(client) == []


def test_bug_07_two_keys_with_the_same_idempotency_key_have_two_jobs(build_client: Callable[..., AppClient]) -> None:
    client = build_client()
    key, _ = client.services.keys.create("other")
    once = {"Idempotency-Key": "order-7"}
    assert job_of(submit(client, headers=once)) != job_of(submit(client, headers=once, key=key))


def test_a_full_queue_refuses_and_keeps_nothing(build_client: Callable[..., AppClient]) -> None:
    client = build_client(more="queue: {max_jobs: 2}\nplans: {default: {requests_per_day: 10}}\n")
    answers = [submit(client) for _ in range(4)]
    assert [a.status_code for a in answers] == [202, 202, 503, 503]
    assert answers[2].json["code"] == "QUEUE_FULL"
    assert int(answers[2].headers["Retry-After"]) > 0
    [used] = client.keys("penstock:limit:dev:requests_per_day:*")
    assert client.services.redis.execute("GET", used) == b"2"
    JobWorker(client).run()
    assert len(client.rows()) == 2
    assert submit(client).status_code == 202


def test_a_queue_full_of_bytes_refuses_and_gives_the_reservation_back(build_client: Callable[..., AppClient]) -> None:
    client = build_client("reply: ok", "queue: {max_bytes: 16384}\nplans: {default: {requests_per_day: 10}}\n")
    assert submit(client, "x" * 2000).status_code == 202
    refused = submit(client, "x" * 2000)
    assert (refused.status_code, refused.json["code"]) == (503, "QUEUE_FULL")
    assert len(open_reservations(client)) == 1
    [used] = client.keys("penstock:limit:dev:requests_per_day:*")
    assert client.services.redis.execute("GET", used) == b"1"
    JobWorker(client).run()
    assert submit(client, "x" * 2000).status_code == 202


def test_a_queued_job_is_cancelled_at_once(build_client: Callable[..., AppClient]) -> None:
    client = build_client(more="plans: {default: {tokens_per_day: 1000}}\n")
    job_id = job_of(submit(client))
    answer = ask(client, job_id, method="DELETE")
    assert (answer.status_code, answer.json["status"]) == (200, "cancelled")
    JobWorker(client).run()
    assert client.asked == []
    [row] = client.rows()
    assert (row["status"], row["http_status"], row["prompt_tokens"], row["cost_nanousd"]) == ("aborted", 499, 0, 0)
    [tokens] = client.keys("penstock:limit:dev:tokens_per_day:*")
    assert client.services.redis.execute("GET", tokens) == b"0"
    assert open_reservations(client) == []


def test_a_running_job_is_cancelled_with_its_upstream_call(build_client: Callable[..., AppClient]) -> None:
    client = build_client(script="delay_s: 30")
    worker = JobWorker(client)
    job_id = job_of(submit(client))
    running = started(client, worker)
    answer = ask(client, job_id, method="DELETE")
    assert (answer.status_code, answer.json["status"]) == (202, "processing")
    worker.runner.beat()
    running.join(5)
    assert not running.is_alive()
    assert ask(client, job_id).json["status"] == "cancelled"
    [row] = client.rows()
    assert (row["status"], row["http_status"]) == ("aborted", 499)


@pytest.mark.parametrize("state", ["completed", "failed", "cancelled"])
def test_what_has_ended_cannot_be_cancelled(build_client: Callable[..., AppClient], state: str) -> None:
    client = build_client(script="fail_status: 400" if state == "failed" else ANSWERED)
    job_id = job_of(submit(client))
    if state == "cancelled":
        ask(client, job_id, method="DELETE")
    JobWorker(client).run()
    assert ask(client, job_id).json["status"] == state
    answer = ask(client, job_id, method="DELETE")
    assert (answer.status_code, answer.json["code"]) == (409, "INVALID_REQUEST")
    assert state in answer.json["error"]["message"]
    assert answer.headers["x-should-retry"] == "false"
    assert len(client.rows()) == 1


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize("job_id", ["req_unknown", "x" * 65, "a%20b", "..%2Fkey", "%00"])
def test_an_unknown_id_is_not_found(build_client: Callable[..., AppClient], job_id: str, method: str) -> None:
    answer = ask(build_client(), job_id, method=method)
    assert (answer.status_code, answer.json["code"]) == (404, "NOT_FOUND")


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_bug_07_another_keys_job_is_not_found(build_client: Callable[..., AppClient], method: str) -> None:
    client = build_client()
    job_id = job_of(submit(client))
    key, _ = client.services.keys.create("other")
    assert ask(client, job_id, method=method, key=key).status_code == 404
    assert ask(client, job_id).json["status"] == "queued"


def test_a_result_is_forgotten_after_its_time(build_client: Callable[..., AppClient]) -> None:
    client = build_client(more="queue: {result_ttl_s: 1}\n")
    job_id = job_of(submit(client, headers={"Idempotency-Key": "k"}))
    JobWorker(client).run()
    wait_for(lambda: ask(client, job_id).status_code == 404, timeout_s=5)
    again = submit(client, headers={"Idempotency-Key": "k"})
    assert again.status_code == 409
    assert "expired" in again.json["error"]["message"]


def test_every_key_of_an_ended_job_has_a_ttl(build_client: Callable[..., AppClient]) -> None:
    client = build_client()
    job_of(submit(client, headers={"Idempotency-Key": "k"}))
    JobWorker(client).run()
    of_the_queue = {b"penstock:queue:" + name for name in (b"facts", b"turns", b"sizes", b"shares", b"results")}
    kept = {b"penstock:outbox", b"penstock:workers", *of_the_queue}
    left = {key for key in client.keys("*") if client.services.redis.execute("PTTL", key) < 0}
    assert left - kept <= {b"penstock:dramatiq:jobs", b"penstock:dramatiq:jobs.msgs"}


def test_a_job_whose_key_was_revoked_meanwhile_fails_and_costs_nothing(build_client: Callable[..., AppClient]) -> None:
    client = build_client()
    key, info = client.services.keys.create("leaves")
    job_id = job_of(submit(client, key=key))
    client.services.keys.revoke(info.key_id, "test")
    JobWorker(client).run()
    assert client.asked == []
    [row] = client.rows()
    assert (row["call_id"], row["status"], row["http_status"], row["cost_nanousd"]) == (job_id, "error", 401, 0)
    assert open_reservations(client) == []


def test_a_failing_vendor_is_asked_again_later_and_the_call_has_one_row(build_client: Callable[..., AppClient]) -> None:
    client = build_client(
        script="fail_status: 503, fail_times: 3, prompt_tokens: 7, completion_tokens: 5",
        more="retry: {max_attempts: 3, breaker_threshold: 100}\nqueue: {retry_backoff_s: 0}\n",
    )
    worker = JobWorker(client)
    job_id = job_of(submit(client))
    worker.run()
    again = ask(client, job_id).json
    assert (again["status"], again["attempts"], again["error"]["code"]) == ("queued", 1, "MODEL_UNAVAILABLE")
    assert client.rows() == []
    waits_again(client, worker)
    worker.run()
    done = ask(client, job_id).json
    assert (done["status"], done["attempts"]) == ("completed", 2)
    assert "error" not in done
    assert [row["status"] for row in client.rows()] == ["ok"]


def test_a_job_that_fails_every_time_ends_failed_with_error_and_attempts(
    build_client: Callable[..., AppClient],
) -> None:
    client = build_client(script="fail_status: 503", more="queue: {retry_backoff_s: 0, max_attempts: 2}\n")
    worker = JobWorker(client)
    job_id = job_of(submit(client))
    worker.run()
    waits_again(client, worker)
    worker.run()
    worker.runner.beat()
    worker.run()
    failed = ask(client, job_id).json
    assert (failed["status"], failed["attempts"]) == ("failed", 2)
    assert failed["error"]["code"] == "MODEL_UNAVAILABLE"
    assert "response" not in failed
    [row] = client.rows()
    assert (row["status"], row["http_status"]) == ("error", 503)


def test_what_the_vendor_rejects_is_not_tried_again(build_client: Callable[..., AppClient]) -> None:
    client = build_client(script="fail_status: 400")
    job_id = job_of(submit(client))
    JobWorker(client).run()
    failed = ask(client, job_id).json
    assert (failed["status"], failed["attempts"], failed["error"]["code"]) == ("failed", 1, "INVALID_REQUEST")


def test_a_job_whose_worker_dies_each_time_ends_failed_with_one_row(build_client: Callable[..., AppClient]) -> None:
    client = build_client(more="queue: {lease_s: 2, max_attempts: 2}\n")
    jobs, worker = client.services.queue.jobs, JobWorker(client)
    job_id = job_of(submit(client))
    for attempt in (1, 2):
        claimed = jobs.claim("dies", 60)
        assert claimed is not None
        assert claimed.attempt == attempt
        client.services.redis.execute("ZADD", "penstock:queue:running", 1, job_id)  # its lease has passed
        worker.runner.beat()
    worker.run()
    failed = ask(client, job_id).json
    assert (failed["status"], failed["error"]["code"]) == ("failed", "INTERNAL_ERROR")
    assert client.asked == []
    assert [row["status"] for row in client.rows()] == ["error"]


def test_a_job_of_a_dead_worker_runs_elsewhere_and_counts_once(
    build_client: Callable[..., AppClient],
) -> None:
    client = build_client(script=f"delay_s: 0.5, {ANSWERED}", more="queue: {lease_s: 2}\n")
    stalled, healthy = JobWorker(client, name="stalled"), JobWorker(client, name="healthy")
    job_id = job_of(submit(client))
    running = started(client, stalled)
    client.services.redis.execute("ZADD", "penstock:queue:running", 1, job_id)
    healthy.runner.beat()
    healthy.run()
    running.join(5)
    done = ask(client, job_id).json
    assert (done["status"], done["attempts"]) == ("completed", 2)
    assert len(client.rows()) == 1
    assert len(client.asked) == 2
    assert open_reservations(client) == []


def test_a_worker_that_lost_a_job_stops_and_leaves_the_call_to_the_other(
    build_client: Callable[..., AppClient],
) -> None:
    client = build_client(script="delay_s: 30")
    worker = JobWorker(client)
    job_id = job_of(submit(client))
    running = started(client, worker)
    client.services.redis.execute("HINCRBY", f"penstock:job:{job_id}", "attempts", 1)  # another worker has claimed it
    worker.runner.beat()
    running.join(5)
    assert not running.is_alive()
    assert client.rows() == []
    assert open_reservations(client) == [job_id.encode()]
    assert ask(client, job_id).json["status"] == "processing"


def test_a_worker_that_gets_its_own_job_again_renews_the_second_attempt(
    build_client: Callable[..., AppClient],
) -> None:
    client = build_client(script=f"delay_s: 1, {ANSWERED}")
    worker, other, redis = JobWorker(client), JobWorker(client, name="other"), client.services.redis
    job_id = job_of(submit(client))
    first, second = threading.Thread(target=worker.run), threading.Thread(target=worker.run)
    first.start()
    wait_for(lambda: len(client.asked) == 1)
    redis.execute("ZADD", "penstock:queue:running", 1, job_id)  # it was silent for too long
    other.runner.beat()
    second.start()
    wait_for(lambda: len(client.asked) == 2)
    worker.runner.beat()  # tells the first attempt to stop
    first.join(5)
    assert not first.is_alive()
    redis.execute("ZADD", "penstock:queue:running", 1, job_id)
    worker.runner.beat()
    assert float(redis.execute("ZSCORE", "penstock:queue:running", job_id)) > 1, "it is still this worker's"
    second.join(5)
    assert (ask(client, job_id).json["status"], ask(client, job_id).json["attempts"]) == ("completed", 2)
    assert len(client.rows()) == 1


def test_a_job_that_waited_too_long_fails(build_client: Callable[..., AppClient]) -> None:
    client = build_client(more="queue: {max_wait_s: 60}\n")
    job_id = job_of(submit(client))
    JobWorker(client, now=lambda: time.time() + 61).run()
    failed = ask(client, job_id).json
    assert (failed["status"], failed["error"]["code"]) == ("failed", "TIMEOUT")
    assert client.asked == []
    assert [row["status"] for row in client.rows()] == ["error"]


def test_a_flood_of_one_key_does_not_hold_up_another(build_client: Callable[..., AppClient]) -> None:
    client = build_client()
    quiet, _ = client.services.keys.create("quiet")
    flood = [job_of(submit(client)) for _ in range(20)]
    few = [job_of(submit(client, key=quiet)) for _ in range(3)]
    assert ask(client, few[2], key=quiet).json["position"] == 6
    assert ask(client, flood[19]).json["position"] == 23
    order = claimed(client, 8)
    assert order == [flood[0], few[0], flood[1], few[1], flood[2], few[2], flood[3], flood[4]]


def test_a_plan_with_more_priority_gets_more_turns_and_nobody_starves(build_client: Callable[..., AppClient]) -> None:
    client = build_client(more="plans: {paid: {priority: 3}}\n")
    paid, _ = client.services.keys.create("paid", plan="paid")
    for _ in range(12):
        submit(client)
        submit(client, key=paid)
    owners = [client.services.redis.execute("HGET", f"penstock:job:{job}", "owner") for job in claimed(client, 12)]
    assert owners.count(b"dev") == 3


def test_a_key_that_comes_late_has_not_saved_up_turns(build_client: Callable[..., AppClient]) -> None:
    client = build_client()
    late, _ = client.services.keys.create("late")
    first = [job_of(submit(client)) for _ in range(10)]
    claimed(client, 6)
    second = [job_of(submit(client, key=late)) for _ in range(4)]
    assert set(claimed(client, 4)) == {first[6], first[7], second[0], second[1]}


def test_no_more_jobs_of_a_key_run_at_once_than_its_plan_lets_it(build_client: Callable[..., AppClient]) -> None:
    client = build_client(more="plans: {default: {concurrency: 2}, other: {}}\n")
    other, _ = client.services.keys.create("other", plan="other")
    mine = [job_of(submit(client)) for _ in range(4)]
    theirs = job_of(submit(client, key=other))
    assert set(claimed(client, 5)) == {mine[0], mine[1], theirs}
    assert client.chat().status_code == 429
    jobs = client.services.queue.jobs
    client.services.redis.execute("ZADD", "penstock:queue:running", 1, mine[0])
    JobWorker(client).runner.beat()
    again = jobs.claim("w", 60)
    assert again is not None
    assert again.id == mine[0]


def test_a_poll_is_answered_with_304_while_nothing_has_changed(build_client: Callable[..., AppClient]) -> None:
    client = build_client()
    job_id = job_of(submit(client))
    first = ask(client, job_id)
    unchanged = ask(client, job_id, If_None_Match=first.headers["ETag"])
    assert (unchanged.status_code, unchanged.data) == (304, b"")
    assert unchanged.headers["Retry-After"] == first.headers["Retry-After"]
    JobWorker(client).run()
    changed = ask(client, job_id, If_None_Match=first.headers["ETag"])
    assert (changed.status_code, changed.json["status"]) == (200, "completed")
    assert "Retry-After" not in changed.headers


def test_an_answer_that_is_cached_costs_a_job_nothing(build_client: Callable[..., AppClient]) -> None:
    client = build_client()
    assert client.chat(temperature=0, messages=[{"role": "user", "content": "Hi"}]).status_code == 200
    body: dict[str, Any] = {"temperature": 0}
    job_id = job_of(submit(client, **body))
    JobWorker(client).run()
    done = ask(client, job_id).json
    assert (done["cache"], done["cost_usd"], done["response"]["cached"]) == ("hit", "0", True)
    assert client.asked == ["a"]


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"stream": True}, "stream"),
        ({"callback_url": 7}, "callback_url"),
        ({"callback_url": "https://example.org/"}, "callback_url"),  # the operator has set no secret
        ({"messages": []}, "messages"),
        ({"model": "unknown"}, "model"),
    ],
)
def test_a_call_that_cannot_be_queued_is_refused_and_names_the_field(
    build_client: Callable[..., AppClient], more: dict[str, Any], param: str
) -> None:
    client = build_client()
    answer = submit(client, **more)
    assert answer.status_code in (400, 404)
    assert answer.json["error"]["param"] == param
    assert client.keys("penstock:job:*") == []


@pytest.mark.parametrize("key", ["with space", "x" * 256, "tab\there"])
def test_an_idempotency_key_that_is_none_is_refused(build_client: Callable[..., AppClient], key: str) -> None:
    answer = submit(build_client(), headers={"Idempotency-Key": key})
    assert (answer.status_code, answer.json["error"]["param"]) == (400, "Idempotency-Key")


def test_a_bug_in_one_job_ends_that_job_only(
    build_client: Callable[..., AppClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = build_client()
    first, second = job_of(submit(client)), job_of(submit(client))

    def fails_once(*args: Any, **named: Any) -> Any:
        monkeypatch.undo()
        raise ZeroDivisionError

    monkeypatch.setattr(client.services.pipeline, "resume", fails_once)
    JobWorker(client).run()
    states = {job: ask(client, job).json["status"] for job in (first, second)}
    assert states == {first: "failed", second: "completed"}
    assert ask(client, first).json["error"]["code"] == "INTERNAL_ERROR"


def test_a_job_that_redis_has_forgotten_does_not_hold_up_the_others(build_client: Callable[..., AppClient]) -> None:
    client = build_client()
    forgotten, kept = job_of(submit(client)), job_of(submit(client))
    client.services.redis.execute("DEL", f"penstock:job:{forgotten}")
    assert claimed(client, 2) == [kept]
    assert client.services.queue.depth().waiting == 0
    forgotten = job_of(submit(client))
    client.services.redis.execute("DEL", f"penstock:job:{forgotten}")
    assert claimed(client, 1) == []
    assert list(client.services.redis.execute("HGETALL", "penstock:queue:sizes")[::2]) == [kept.encode()]


def test_nothing_is_remembered_of_a_cancellation_that_has_happened(build_client: Callable[..., AppClient]) -> None:
    client = build_client()
    job_id = job_of(submit(client))
    assert claimed(client, 1) == [job_id]
    assert ask(client, job_id, method="DELETE").status_code == 202
    client.services.redis.execute("ZADD", "penstock:queue:running", 1, job_id)  # its worker dies before it hears of it
    JobWorker(client).runner.beat()
    assert ask(client, job_id, method="DELETE").json["status"] == "cancelled"
    assert client.keys("penstock:queue:cancels") == []


def test_what_is_rung_is_a_message_that_dramatiq_reads(build_client: Callable[..., AppClient], redis_url: str) -> None:
    client = build_client()
    submit(client)
    broker = RedisBroker(url=redis_url, namespace=keys.DRAMATIQ_NAMESPACE, middleware=[])  # type: ignore[no-untyped-call]
    broker.declare_queue(keys.JOBS_QUEUE)
    messages: Iterator[Any] = broker.consume(keys.JOBS_QUEUE, timeout=100)
    message = next(messages)
    assert (message.actor_name, message.args, message.kwargs) == (keys.JOBS_ACTOR, (), {})
    broker.consume(keys.JOBS_QUEUE).ack(message)
    assert client.keys("penstock:dramatiq:jobs*") == []
    assert isinstance(message, dramatiq.MessageProxy)
    broker.close()


def claimed(client: AppClient, count: int) -> list[str]:
    """The ids of the next jobs that a worker would get."""
    found = [client.services.queue.jobs.claim("w", 60) for _ in range(count)]
    return [job.id for job in found if job is not None]


@pytest.mark.parametrize("state", ["completed", "failed", "cancelled"])
def test_who_wants_a_callback_gets_one_however_the_job_ends(
    client_with: Callable[[str], AppClient], monkeypatch: pytest.MonkeyPatch, redis_url: str, state: str
) -> None:
    script = "fail_status: 400" if state == "failed" else ANSWERED
    app = client_with(DEMO.format(script=script))
    app.services.callbacks._key = b"secret"
    silent, told = job_of(submit(app)), job_of(submit(app, callback_url="https://example.org/hook"))
    if state == "cancelled":
        for job_id in (silent, told):
            ask(app, job_id, method="DELETE")
    JobWorker(app).run()
    assert ask(app, told).json["status"] == state
    broker = RedisBroker(url=redis_url, namespace=keys.DRAMATIQ_NAMESPACE, middleware=[])  # type: ignore[no-untyped-call]
    broker.declare_queue(keys.CALLBACKS_QUEUE)
    messages: Iterator[Any] = broker.consume(keys.CALLBACKS_QUEUE, timeout=100)
    message = next(messages)
    assert (message.actor_name, message.args) == (keys.CALLBACKS_ACTOR, (told, "dev"))
    assert next(messages) is None
    broker.close()


def test_a_job_that_was_admitted_runs_though_the_budget_is_spent_meanwhile(
    build_client: Callable[..., AppClient],
) -> None:
    client = build_client(more="plans: {default: {budget_usd_per_month: 0.0002}}\n")
    job_id = job_of(submit(client, max_tokens=50))
    refused = next(answer for _ in range(10) if (answer := client.chat(max_tokens=50)).status_code != 200)
    assert (refused.status_code, refused.json["code"]) == (429, "BUDGET_EXCEEDED")
    JobWorker(client).run()
    assert ask(client, job_id).json["status"] == "completed"
    spent = sum(row["cost_nanousd"] for row in client.rows())
    assert spent <= 200_000
    [counter] = client.keys("penstock:limit:dev:budget_usd_per_month:*")
    assert client.services.redis.execute("GET", counter) == str(spent).encode()


def waits_again(client: AppClient, worker: JobWorker) -> None:
    """Until the pause of the one job there is has passed, by Redis's clock."""

    def beaten() -> bool:
        worker.runner.beat()
        return bool(client.services.redis.execute("ZCARD", "penstock:queue:waiting") == 1)

    wait_for(beaten)

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
from werkzeug.test import TestResponse

from app.jobs.runner import JobRunner
from app.store.redis import keys
from tests.api.conftest import Edge
from tests.support.servers import wait_for

DEMO = "providers:\n  a: {{kind: demo, script: {{{script}}}}}\nmodels:\n  m:\n    targets: [{{provider: a}}]\n"
ANSWERED = "prompt_tokens: 7, completion_tokens: 5"


class Worker:
    """A runner and what it was told; `run` answers one bell."""

    def __init__(self, edge: Edge, *, name: str = "w1", now: Callable[[], float] = time.time) -> None:
        found = edge.services
        self.runner = JobRunner(
            jobs=found.queue.jobs,
            pipeline=found.pipeline,
            callers=found.callers,
            config=found.settings.config,
            worker=name,
            slots=4,
            others_wait=lambda: False,
            clock=now,
            pause=lambda _: None,
        )

    def run(self) -> None:
        self.runner.run_jobs()


@pytest.fixture
def made(edge: Callable[[str], Edge]) -> Callable[..., Edge]:
    """The application with one demo model `m`."""

    def build(script: str = ANSWERED, more: str = "") -> Edge:
        return edge(DEMO.format(script=script) + more)

    return build


def started(edge: Edge, worker: Worker) -> threading.Thread:
    """`worker` in a thread, with its job's upstream call on its way."""
    running = threading.Thread(target=worker.run)
    running.start()
    wait_for(lambda: edge.asked)
    return running


def submit(
    edge: Edge, content: str = "Hi", *, key: str | None = None, headers: dict[str, str] | None = None, **more: Any
) -> TestResponse:
    body = {"model": "m", "messages": [{"role": "user", "content": content}], **more}
    return edge.post(json.dumps(body), key=key, headers=headers, path="/v1/chat/async")


def ask(edge: Edge, job_id: str, *, method: str = "GET", key: str | None = None, **headers: str) -> TestResponse:
    sent = {"Authorization": f"Bearer {key or edge.key}", **{k.replace("_", "-"): v for k, v in headers.items()}}
    answer: TestResponse = edge._client.open(f"/v1/requests/{job_id}", method=method, headers=sent)
    return answer


def job_of(answer: TestResponse) -> str:
    assert answer.status_code == 202, answer.text
    return str(answer.json["request_id"])


def open_reservations(edge: Edge) -> list[bytes]:
    return [
        call
        for key in edge.keys("penstock:reservations:*")
        for call in edge.services.redis.execute("ZRANGE", key, 0, -1)
    ]


def test_a_submitted_call_is_queued_run_and_shown_with_timings_and_cost(made: Callable[..., Edge]) -> None:
    edge = made()
    answer = submit(edge)
    job_id = job_of(answer)
    assert answer.json == {"request_id": job_id, "status": "queued", "status_url": f"/v1/requests/{job_id}"}
    assert answer.headers["Location"] == f"/v1/requests/{job_id}"
    assert answer.headers["Retry-After"] == "1"
    queued = ask(edge, job_id)
    assert (queued.json["status"], queued.json["position"]) == ("queued", 1)
    assert 1 <= int(queued.headers["Retry-After"]) <= 30

    Worker(edge).run()

    done = ask(edge, job_id).json
    assert done["status"] == "completed"
    assert done["response"]["choices"][0]["message"]["role"] == "assistant"
    assert done["response"]["usage"]["total_tokens"] == 12
    assert (done["model"], done["provider"], done["attempts"]) == ("m", "a", 1)
    assert done["cost_usd"] == "0.000017"
    assert done["queued_ms"] >= 0
    assert done["run_ms"] >= 0
    assert done["created_at"] <= done["started_at"] <= done["finished_at"]


def test_a_job_is_one_row_and_leaves_nothing_reserved(made: Callable[..., Edge]) -> None:
    edge = made(more="plans: {default: {tokens_per_day: 100000, budget_usd_per_month: 1}}\n")
    job_id = job_of(submit(edge, max_tokens=50))
    assert open_reservations(edge) == [job_id.encode()]
    Worker(edge).run()
    [row] = edge.rows()
    assert (row["call_id"], row["job_id"], row["status"]) == (job_id, job_id, "ok")
    assert (row["prompt_tokens"], row["completion_tokens"], row["cost_nanousd"]) == (7, 5, 17_000)
    assert open_reservations(edge) == []
    [tokens] = edge.keys("penstock:limit:dev:tokens_per_day:*")
    [spent] = edge.keys("penstock:limit:dev:budget_usd_per_month:*")
    assert edge.services.redis.execute("MGET", tokens, spent) == [b"12", b"17000"]


def test_limits_hold_when_a_call_is_submitted_not_when_it_runs(made: Callable[..., Edge]) -> None:
    edge = made(more="plans: {default: {requests_per_day: 2}}\n")
    assert [submit(edge).status_code for _ in range(3)] == [202, 202, 429]
    Worker(edge).run()
    assert [row["status"] for row in edge.rows()] == ["ok", "ok"]


def test_the_same_idempotency_key_is_the_same_job(made: Callable[..., Edge]) -> None:
    edge = made()
    once = {"Idempotency-Key": "order-7"}
    first, again = submit(edge, headers=once), submit(edge, headers=once)
    assert job_of(first) == job_of(again)
    Worker(edge).run()
    third = submit(edge, headers=once)
    assert third.json["status"] == "completed"
    assert len(edge.rows()) == 1
    other = submit(edge, "Something else", headers=once)
    assert (other.status_code, other.json["error"]["param"]) == (409, "Idempotency-Key")
    assert other.headers["x-should-retry"] == "false"
    assert open_reservations(edge) == []


def test_bug_07_two_keys_with_the_same_idempotency_key_have_two_jobs(made: Callable[..., Edge]) -> None:
    edge = made()
    key, _ = edge.services.keys.create("other")
    once = {"Idempotency-Key": "order-7"}
    assert job_of(submit(edge, headers=once)) != job_of(submit(edge, headers=once, key=key))


def test_a_full_queue_refuses_and_keeps_nothing(made: Callable[..., Edge]) -> None:
    edge = made(more="queue: {max_jobs: 2}\nplans: {default: {requests_per_day: 10}}\n")
    answers = [submit(edge) for _ in range(4)]
    assert [a.status_code for a in answers] == [202, 202, 503, 503]
    assert answers[2].json["code"] == "QUEUE_FULL"
    assert int(answers[2].headers["Retry-After"]) > 0
    [used] = edge.keys("penstock:limit:dev:requests_per_day:*")
    assert edge.services.redis.execute("GET", used) == b"2"
    Worker(edge).run()
    assert len(edge.rows()) == 2
    assert submit(edge).status_code == 202


def test_a_queue_full_of_bytes_refuses_and_gives_the_reservation_back(made: Callable[..., Edge]) -> None:
    edge = made("reply: ok", "queue: {max_bytes: 16384}\nplans: {default: {requests_per_day: 10}}\n")
    assert submit(edge, "x" * 2000).status_code == 202
    refused = submit(edge, "x" * 2000)
    assert (refused.status_code, refused.json["code"]) == (503, "QUEUE_FULL")
    assert len(open_reservations(edge)) == 1
    [used] = edge.keys("penstock:limit:dev:requests_per_day:*")
    assert edge.services.redis.execute("GET", used) == b"1"
    Worker(edge).run()
    assert submit(edge, "x" * 2000).status_code == 202


def test_a_queued_job_is_cancelled_at_once(made: Callable[..., Edge]) -> None:
    edge = made(more="plans: {default: {tokens_per_day: 1000}}\n")
    job_id = job_of(submit(edge))
    answer = ask(edge, job_id, method="DELETE")
    assert (answer.status_code, answer.json["status"]) == (200, "cancelled")
    Worker(edge).run()
    assert edge.asked == []
    [row] = edge.rows()
    assert (row["status"], row["http_status"], row["prompt_tokens"], row["cost_nanousd"]) == ("aborted", 499, 0, 0)
    [tokens] = edge.keys("penstock:limit:dev:tokens_per_day:*")
    assert edge.services.redis.execute("GET", tokens) == b"0"
    assert open_reservations(edge) == []


def test_a_running_job_is_cancelled_with_its_upstream_call(made: Callable[..., Edge]) -> None:
    edge = made(script="delay_s: 30")
    worker = Worker(edge)
    job_id = job_of(submit(edge))
    running = started(edge, worker)
    answer = ask(edge, job_id, method="DELETE")
    assert (answer.status_code, answer.json["status"]) == (202, "processing")
    worker.runner.beat()
    running.join(5)
    assert not running.is_alive()
    assert ask(edge, job_id).json["status"] == "cancelled"
    [row] = edge.rows()
    assert (row["status"], row["http_status"]) == ("aborted", 499)


@pytest.mark.parametrize("state", ["completed", "failed", "cancelled"])
def test_what_has_ended_cannot_be_cancelled(made: Callable[..., Edge], state: str) -> None:
    edge = made(script="fail_status: 400" if state == "failed" else ANSWERED)
    job_id = job_of(submit(edge))
    if state == "cancelled":
        ask(edge, job_id, method="DELETE")
    Worker(edge).run()
    assert ask(edge, job_id).json["status"] == state
    answer = ask(edge, job_id, method="DELETE")
    assert (answer.status_code, answer.json["code"]) == (409, "INVALID_REQUEST")
    assert state in answer.json["error"]["message"]
    assert answer.headers["x-should-retry"] == "false"
    assert len(edge.rows()) == 1


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize("job_id", ["req_unknown", "x" * 65, "a%20b", "..%2Fkey", "%00"])
def test_an_unknown_id_is_not_found(made: Callable[..., Edge], job_id: str, method: str) -> None:
    answer = ask(made(), job_id, method=method)
    assert (answer.status_code, answer.json["code"]) == (404, "NOT_FOUND")


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_bug_07_another_keys_job_is_not_found(made: Callable[..., Edge], method: str) -> None:
    edge = made()
    job_id = job_of(submit(edge))
    key, _ = edge.services.keys.create("other")
    assert ask(edge, job_id, method=method, key=key).status_code == 404
    assert ask(edge, job_id).json["status"] == "queued"


def test_a_result_is_forgotten_after_its_time(made: Callable[..., Edge]) -> None:
    edge = made(more="queue: {result_ttl_s: 1}\n")
    job_id = job_of(submit(edge, headers={"Idempotency-Key": "k"}))
    Worker(edge).run()
    wait_for(lambda: ask(edge, job_id).status_code == 404, timeout_s=5)
    again = submit(edge, headers={"Idempotency-Key": "k"})
    assert again.status_code == 409
    assert "expired" in again.json["error"]["message"]


def test_every_key_of_an_ended_job_has_a_ttl(made: Callable[..., Edge]) -> None:
    edge = made()
    job_of(submit(edge, headers={"Idempotency-Key": "k"}))
    Worker(edge).run()
    of_the_queue = {b"penstock:queue:" + name for name in (b"facts", b"turns", b"sizes", b"shares", b"results")}
    kept = {b"penstock:outbox", b"penstock:workers", *of_the_queue}
    left = {key for key in edge.keys("*") if edge.services.redis.execute("PTTL", key) < 0}
    assert left - kept <= {b"penstock:dramatiq:jobs", b"penstock:dramatiq:jobs.msgs"}


def test_a_job_whose_key_was_revoked_meanwhile_fails_and_costs_nothing(made: Callable[..., Edge]) -> None:
    edge = made()
    key, info = edge.services.keys.create("leaves")
    job_id = job_of(submit(edge, key=key))
    edge.services.keys.revoke(info.key_id, "test")
    Worker(edge).run()
    assert edge.asked == []
    [row] = edge.rows()
    assert (row["call_id"], row["status"], row["http_status"], row["cost_nanousd"]) == (job_id, "error", 401, 0)
    assert open_reservations(edge) == []


def test_a_failing_vendor_is_asked_again_later_and_the_call_has_one_row(made: Callable[..., Edge]) -> None:
    edge = made(
        script="fail_status: 503, fail_times: 3, prompt_tokens: 7, completion_tokens: 5",
        more="retry: {max_attempts: 3, breaker_threshold: 100}\nqueue: {retry_backoff_s: 0}\n",
    )
    worker = Worker(edge)
    job_id = job_of(submit(edge))
    worker.run()
    again = ask(edge, job_id).json
    assert (again["status"], again["attempts"], again["error"]["code"]) == ("queued", 1, "MODEL_UNAVAILABLE")
    assert edge.rows() == []
    waits_again(edge, worker)
    worker.run()
    done = ask(edge, job_id).json
    assert (done["status"], done["attempts"]) == ("completed", 2)
    assert "error" not in done
    assert [row["status"] for row in edge.rows()] == ["ok"]


def test_a_job_that_fails_every_time_ends_failed_with_error_and_attempts(made: Callable[..., Edge]) -> None:
    edge = made(script="fail_status: 503", more="queue: {retry_backoff_s: 0, max_attempts: 2}\n")
    worker = Worker(edge)
    job_id = job_of(submit(edge))
    worker.run()
    waits_again(edge, worker)
    worker.run()
    worker.runner.beat()
    worker.run()
    failed = ask(edge, job_id).json
    assert (failed["status"], failed["attempts"]) == ("failed", 2)
    assert failed["error"]["code"] == "MODEL_UNAVAILABLE"
    assert "response" not in failed
    [row] = edge.rows()
    assert (row["status"], row["http_status"]) == ("error", 503)


def test_what_the_vendor_rejects_is_not_tried_again(made: Callable[..., Edge]) -> None:
    edge = made(script="fail_status: 400")
    job_id = job_of(submit(edge))
    Worker(edge).run()
    failed = ask(edge, job_id).json
    assert (failed["status"], failed["attempts"], failed["error"]["code"]) == ("failed", 1, "INVALID_REQUEST")


def test_a_job_whose_worker_dies_each_time_ends_failed_with_one_row(made: Callable[..., Edge]) -> None:
    edge = made(more="queue: {lease_s: 2, max_attempts: 2}\n")
    jobs, worker = edge.services.queue.jobs, Worker(edge)
    job_id = job_of(submit(edge))
    for attempt in (1, 2):
        claimed = jobs.claim("dies", 60)
        assert claimed is not None
        assert claimed.attempt == attempt
        edge.services.redis.execute("ZADD", "penstock:queue:running", 1, job_id)  # its lease has passed
        worker.runner.beat()
    worker.run()
    failed = ask(edge, job_id).json
    assert (failed["status"], failed["error"]["code"]) == ("failed", "INTERNAL_ERROR")
    assert edge.asked == []
    assert [row["status"] for row in edge.rows()] == ["error"]


def test_a_job_of_a_dead_worker_runs_elsewhere_and_counts_once(
    made: Callable[..., Edge],
) -> None:
    edge = made(script=f"delay_s: 0.5, {ANSWERED}", more="queue: {lease_s: 2}\n")
    stalled, healthy = Worker(edge, name="stalled"), Worker(edge, name="healthy")
    job_id = job_of(submit(edge))
    running = started(edge, stalled)
    edge.services.redis.execute("ZADD", "penstock:queue:running", 1, job_id)
    healthy.runner.beat()
    healthy.run()
    running.join(5)
    done = ask(edge, job_id).json
    assert (done["status"], done["attempts"]) == ("completed", 2)
    assert len(edge.rows()) == 1
    assert len(edge.asked) == 2
    assert open_reservations(edge) == []


def test_a_worker_that_lost_a_job_stops_and_leaves_the_call_to_the_other(made: Callable[..., Edge]) -> None:
    edge = made(script="delay_s: 30")
    worker = Worker(edge)
    job_id = job_of(submit(edge))
    running = started(edge, worker)
    edge.services.redis.execute("HINCRBY", f"penstock:job:{job_id}", "attempts", 1)  # another worker has claimed it
    worker.runner.beat()
    running.join(5)
    assert not running.is_alive()
    assert edge.rows() == []
    assert open_reservations(edge) == [job_id.encode()]
    assert ask(edge, job_id).json["status"] == "processing"


def test_a_worker_that_gets_its_own_job_again_renews_the_second_attempt(
    made: Callable[..., Edge],
) -> None:
    edge = made(script=f"delay_s: 1, {ANSWERED}")
    worker, other, redis = Worker(edge), Worker(edge, name="other"), edge.services.redis
    job_id = job_of(submit(edge))
    first, second = threading.Thread(target=worker.run), threading.Thread(target=worker.run)
    first.start()
    wait_for(lambda: len(edge.asked) == 1)
    redis.execute("ZADD", "penstock:queue:running", 1, job_id)  # it was silent for too long
    other.runner.beat()
    second.start()
    wait_for(lambda: len(edge.asked) == 2)
    worker.runner.beat()  # tells the first attempt to stop
    first.join(5)
    assert not first.is_alive()
    redis.execute("ZADD", "penstock:queue:running", 1, job_id)
    worker.runner.beat()
    assert float(redis.execute("ZSCORE", "penstock:queue:running", job_id)) > 1, "it is still this worker's"
    second.join(5)
    assert (ask(edge, job_id).json["status"], ask(edge, job_id).json["attempts"]) == ("completed", 2)
    assert len(edge.rows()) == 1


def test_a_job_that_waited_too_long_fails(made: Callable[..., Edge]) -> None:
    edge = made(more="queue: {max_wait_s: 60}\n")
    job_id = job_of(submit(edge))
    Worker(edge, now=lambda: time.time() + 61).run()
    failed = ask(edge, job_id).json
    assert (failed["status"], failed["error"]["code"]) == ("failed", "TIMEOUT")
    assert edge.asked == []
    assert [row["status"] for row in edge.rows()] == ["error"]


def test_a_flood_of_one_key_does_not_hold_up_another(made: Callable[..., Edge]) -> None:
    edge = made()
    quiet, _ = edge.services.keys.create("quiet")
    flood = [job_of(submit(edge)) for _ in range(20)]
    few = [job_of(submit(edge, key=quiet)) for _ in range(3)]
    assert ask(edge, few[2], key=quiet).json["position"] == 6
    assert ask(edge, flood[19]).json["position"] == 23
    order = claimed(edge, 8)
    assert order == [flood[0], few[0], flood[1], few[1], flood[2], few[2], flood[3], flood[4]]


def test_a_plan_with_more_priority_gets_more_turns_and_nobody_starves(made: Callable[..., Edge]) -> None:
    edge = made(more="plans: {paid: {priority: 3}}\n")
    paid, _ = edge.services.keys.create("paid", plan="paid")
    for _ in range(12):
        submit(edge)
        submit(edge, key=paid)
    owners = [edge.services.redis.execute("HGET", f"penstock:job:{job}", "owner") for job in claimed(edge, 12)]
    assert owners.count(b"dev") == 3


def test_a_key_that_comes_late_has_not_saved_up_turns(made: Callable[..., Edge]) -> None:
    edge = made()
    late, _ = edge.services.keys.create("late")
    first = [job_of(submit(edge)) for _ in range(10)]
    claimed(edge, 6)
    second = [job_of(submit(edge, key=late)) for _ in range(4)]
    assert set(claimed(edge, 4)) == {first[6], first[7], second[0], second[1]}


def test_no_more_jobs_of_a_key_run_at_once_than_its_plan_lets_it(made: Callable[..., Edge]) -> None:
    edge = made(more="plans: {default: {concurrency: 2}, other: {}}\n")
    other, _ = edge.services.keys.create("other", plan="other")
    mine = [job_of(submit(edge)) for _ in range(4)]
    theirs = job_of(submit(edge, key=other))
    assert set(claimed(edge, 5)) == {mine[0], mine[1], theirs}
    assert edge.chat().status_code == 429
    jobs = edge.services.queue.jobs
    edge.services.redis.execute("ZADD", "penstock:queue:running", 1, mine[0])
    Worker(edge).runner.beat()
    again = jobs.claim("w", 60)
    assert again is not None
    assert again.id == mine[0]


def test_a_poll_is_answered_with_304_while_nothing_has_changed(made: Callable[..., Edge]) -> None:
    edge = made()
    job_id = job_of(submit(edge))
    first = ask(edge, job_id)
    unchanged = ask(edge, job_id, If_None_Match=first.headers["ETag"])
    assert (unchanged.status_code, unchanged.data) == (304, b"")
    assert unchanged.headers["Retry-After"] == first.headers["Retry-After"]
    Worker(edge).run()
    changed = ask(edge, job_id, If_None_Match=first.headers["ETag"])
    assert (changed.status_code, changed.json["status"]) == (200, "completed")
    assert "Retry-After" not in changed.headers


def test_an_answer_that_is_cached_costs_a_job_nothing(made: Callable[..., Edge]) -> None:
    edge = made()
    assert edge.chat(temperature=0, messages=[{"role": "user", "content": "Hi"}]).status_code == 200
    body = {"temperature": 0}
    job_id = job_of(submit(edge, **body))
    Worker(edge).run()
    done = ask(edge, job_id).json
    assert (done["cache"], done["cost_usd"], done["response"]["cached"]) == ("hit", "0", True)
    assert edge.asked == ["a"]


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
    made: Callable[..., Edge], more: dict[str, Any], param: str
) -> None:
    edge = made()
    answer = submit(edge, **more)
    assert answer.status_code in (400, 404)
    assert answer.json["error"]["param"] == param
    assert edge.keys("penstock:job:*") == []


@pytest.mark.parametrize("key", ["with space", "x" * 256, "tab\there"])
def test_an_idempotency_key_that_is_none_is_refused(made: Callable[..., Edge], key: str) -> None:
    answer = submit(made(), headers={"Idempotency-Key": key})
    assert (answer.status_code, answer.json["error"]["param"]) == (400, "Idempotency-Key")


def test_a_bug_in_one_job_ends_that_job_only(made: Callable[..., Edge], monkeypatch: pytest.MonkeyPatch) -> None:
    edge = made()
    first, second = job_of(submit(edge)), job_of(submit(edge))
    resume = edge.services.pipeline.resume

    def fails_once(*args: Any, **named: Any) -> Any:
        monkeypatch.undo()
        raise ZeroDivisionError

    monkeypatch.setattr(edge.services.pipeline, "resume", fails_once)
    assert resume
    Worker(edge).run()
    states = {job: ask(edge, job).json["status"] for job in (first, second)}
    assert states == {first: "failed", second: "completed"}
    assert ask(edge, first).json["error"]["code"] == "INTERNAL_ERROR"


def test_a_job_that_redis_has_forgotten_does_not_hold_up_the_others(made: Callable[..., Edge]) -> None:
    edge = made()
    forgotten, kept = job_of(submit(edge)), job_of(submit(edge))
    edge.services.redis.execute("DEL", f"penstock:job:{forgotten}")
    assert claimed(edge, 2) == [kept]
    assert edge.services.queue.depth().waiting == 0
    forgotten = job_of(submit(edge))
    edge.services.redis.execute("DEL", f"penstock:job:{forgotten}")
    assert claimed(edge, 1) == []
    assert list(edge.services.redis.execute("HGETALL", "penstock:queue:sizes")[::2]) == [kept.encode()]


def test_nothing_is_remembered_of_a_cancellation_that_has_happened(made: Callable[..., Edge]) -> None:
    edge = made()
    job_id = job_of(submit(edge))
    assert claimed(edge, 1) == [job_id]
    assert ask(edge, job_id, method="DELETE").status_code == 202
    edge.services.redis.execute("ZADD", "penstock:queue:running", 1, job_id)  # its worker dies before it hears of it
    Worker(edge).runner.beat()
    assert ask(edge, job_id, method="DELETE").json["status"] == "cancelled"
    assert edge.keys("penstock:queue:cancels") == []


def test_what_is_rung_is_a_message_that_dramatiq_reads(made: Callable[..., Edge], redis_url: str) -> None:
    edge = made()
    submit(edge)
    broker = RedisBroker(url=redis_url, namespace=keys.DRAMATIQ_NAMESPACE, middleware=[])
    broker.declare_queue(keys.JOBS_QUEUE)
    messages: Iterator[Any] = broker.consume(keys.JOBS_QUEUE, timeout=100)
    message = next(messages)
    assert (message.actor_name, message.args, message.kwargs) == (keys.JOBS_ACTOR, (), {})
    broker.consume(keys.JOBS_QUEUE).ack(message)
    assert edge.keys("penstock:dramatiq:jobs*") == []
    assert isinstance(message, dramatiq.MessageProxy)
    broker.close()


def claimed(edge: Edge, count: int) -> list[str]:
    """The ids of the next jobs that a worker would get."""
    found = [edge.services.queue.jobs.claim("w", 60) for _ in range(count)]
    return [job.id for job in found if job is not None]


@pytest.mark.parametrize("state", ["completed", "failed", "cancelled"])
def test_who_wants_a_callback_gets_one_however_the_job_ends(
    edge: Callable[[str], Edge], monkeypatch: pytest.MonkeyPatch, redis_url: str, state: str
) -> None:
    script = "fail_status: 400" if state == "failed" else ANSWERED
    app = edge(DEMO.format(script=script))
    app.services.callbacks._key = b"secret"
    silent, told = job_of(submit(app)), job_of(submit(app, callback_url="https://example.org/hook"))
    if state == "cancelled":
        for job_id in (silent, told):
            ask(app, job_id, method="DELETE")
    Worker(app).run()
    assert ask(app, told).json["status"] == state
    broker = RedisBroker(url=redis_url, namespace=keys.DRAMATIQ_NAMESPACE, middleware=[])
    broker.declare_queue(keys.CALLBACKS_QUEUE)
    messages: Iterator[Any] = broker.consume(keys.CALLBACKS_QUEUE, timeout=100)
    message = next(messages)
    assert (message.actor_name, message.args) == (keys.CALLBACKS_ACTOR, (told, "dev"))
    assert next(messages) is None
    broker.close()


def test_a_job_that_was_admitted_runs_though_the_budget_is_spent_meanwhile(made: Callable[..., Edge]) -> None:
    edge = made(more="plans: {default: {budget_usd_per_month: 0.0002}}\n")
    job_id = job_of(submit(edge, max_tokens=50))
    refused = next(answer for _ in range(10) if (answer := edge.chat(max_tokens=50)).status_code != 200)
    assert (refused.status_code, refused.json["code"]) == (429, "BUDGET_EXCEEDED")
    Worker(edge).run()
    assert ask(edge, job_id).json["status"] == "completed"
    spent = sum(row["cost_nanousd"] for row in edge.rows())
    assert spent <= 200_000
    [counter] = edge.keys("penstock:limit:dev:budget_usd_per_month:*")
    assert edge.services.redis.execute("GET", counter) == str(spent).encode()


def waits_again(edge: Edge, worker: Worker) -> None:
    """Until the pause of the one job there is has passed, by Redis's clock."""

    def beaten() -> bool:
        worker.runner.beat()
        return edge.services.redis.execute("ZCARD", "penstock:queue:waiting") == 1

    wait_for(beaten)

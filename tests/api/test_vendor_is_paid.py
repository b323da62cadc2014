"""A vendor that worked is paid for: what it may bill without having answered is charged, shown, and part of the budget.

Prices are $1 a million prompt tokens and $2 a million completion tokens.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from app.gateway.deferred import DeferredCall
from app.store.ledger import Ledger
from tests.api.conftest import AppClient
from tests.api.test_jobs import JobWorker, ask, job_of, submit, waits_again
from tests.support.upstream import Upstream

CONFIG = """
providers: {up: {kind: openai, base_url: %s}, other: {kind: demo}}
models:
  silent: {targets: [{provider: up}], max_output_tokens: 1000}
  garbage: {targets: [{provider: up}], max_output_tokens: 1000}
  reset: {targets: [{provider: up}], max_output_tokens: 1000}
  status-500: {targets: [{provider: up}]}
  status-400: {targets: [{provider: up}]}
  status-504: {targets: [{provider: up}]}
  status-524: {targets: [{provider: up}]}
  errorevent-0: {targets: [{provider: up}]}
  cut-3: {targets: [{provider: up}]}
  rescued: {targets: [{provider: up, model: silent}], fallbacks: [{provider: up, model: usage-10-5}]}
plans:
  day: {budget_usd_per_day: 0.01, tokens_per_day: 1000000}
timeouts: {first_byte_s: 0.1, idle_s: 0.1}
retry: {max_attempts: 3, backoff_s: 0}
reserve: {completion_tokens: 300}
queue: {max_attempts: 3, retry_backoff_s: 0}
"""
Row = dict[str, Any]


@pytest.fixture
def paid(client_with: Callable[[str], AppClient], upstream: Upstream) -> AppClient:
    return client_with(CONFIG % upstream.url)


def last(paid: AppClient) -> Row:
    return paid.rows()[-1]


def outcomes(row: Row) -> list[tuple[str, str, int]]:
    """Of each attempt: the vendor's model, the outcome, completion tokens."""
    return [(attempt[1], attempt[2], attempt[4]) for attempt in row.get("charged_attempts", ())]


def counter(paid: AppClient, key_id: str, name: str) -> int:
    (found,) = paid.keys(f"penstock:limit:{key_id}:{name}*")
    return int(paid.services.redis.execute("GET", found))


@pytest.mark.parametrize(
    ("model", "outcome"), [("silent", "timeout_first_byte"), ("garbage", "bad_body"), ("reset", "closed")]
)
def test_an_attempt_without_an_answer_is_charged_as_a_likely_one(paid: AppClient, model: str, outcome: str) -> None:
    assert paid.chat(model).status_code >= 500
    row = last(paid)
    tried = row["attempts"]
    assert outcomes(row) == [(model, outcome, 300)] * tried
    assert (row["status"], row["estimated"], row["unpriced"]) == ("error", True, False)
    assert row["completion_tokens"] == 300 * tried
    assert row["cost_nanousd"] == row["prompt_tokens"] * 1000 + row["completion_tokens"] * 2000
    assert row["prompt_tokens"] >= tried * 10


def test_the_callers_bound_is_what_a_likely_answer_has(paid: AppClient) -> None:
    paid.chat("silent", max_tokens=7, n=2)
    assert outcomes(last(paid)) == [("silent", "timeout_first_byte", 14)]


def test_no_unseen_answer_is_longer_than_the_models_longest(paid: AppClient) -> None:
    paid.chat("silent", max_tokens=5_000_000)
    assert outcomes(last(paid)) == [("silent", "timeout_first_byte", 1000)]


def test_an_attempt_left_for_a_fallback_is_charged_besides_the_answer(paid: AppClient) -> None:
    answer = paid.chat("rescued", max_tokens=100)
    assert answer.status_code == 200
    row = last(paid)
    assert outcomes(row) == [("silent", "timeout_first_byte", 100), ("usage-10-5", "ok", 5)]
    assert (row["completion_tokens"], row["status"], row["attempts"]) == (105, "ok", 2)
    estimated = row["prompt_tokens"] - 10
    assert row["cost_nanousd"] == estimated * 1000 + 100 * 2000 + 10 * 1000 + 5 * 2000
    assert answer.headers["x-penstock-cost-usd"] == f"{row['cost_nanousd'] / 1e9:.9f}".rstrip("0")


def test_charged_attempts_are_rows_of_their_own_and_add_up_to_the_call(paid: AppClient) -> None:
    paid.chat("rescued", max_tokens=100)
    entry = paid.services.redis.execute("XRANGE", "penstock:outbox", "-", "+")[-1][1][1]
    ledger = Ledger(database=paid.services.database)
    assert ledger.write([entry, entry]) == 1
    with paid.services.database.read() as connection:
        sql = connection.exec_driver_sql
        attempts = sql("select attempt, upstream_model, outcome, estimated from usage_attempts order by attempt").all()
        sums = sql("select sum(prompt_tokens), sum(completion_tokens), sum(cost_nanousd) from usage_attempts").one()
        call = sql("select prompt_tokens, completion_tokens, cost_nanousd from usage").one()
    assert attempts == [(1, "silent", "timeout_first_byte", 1), (2, "usage-10-5", "ok", 0)]
    assert tuple(sums) == tuple(call)


def test_a_lost_calls_attempts_give_way_to_the_real_ones(paid: AppClient) -> None:
    ledger = Ledger(database=paid.services.database)
    row = {"request_id": "r", "call_id": "c", "ts": 0.0, "key_id": "k", "model": "m"}
    ledger.write(
        [
            row
            | {
                "status": "lost",
                "charged_attempts": [["a", "b", "cut", 1, 1, 1, True], ["", "", "lost", 1, 1, 1, True]],
            }
        ]
    )
    ledger.write([row | {"status": "error", "charged_attempts": [["a", "b", "cut", 1, 1, 1, True]]}])
    with paid.services.database.read() as connection:
        assert connection.exec_driver_sql("select attempt, outcome from usage_attempts").all() == [(1, "cut")]


def test_an_answer_that_a_proxy_did_not_wait_for_is_charged(paid: AppClient) -> None:
    for model in ("status-504", "status-524"):
        assert paid.chat(model).status_code == 504
        assert outcomes(last(paid)) == [(model, "timeout_first_byte", 300)], "asked once: it would wait as long again"


def test_a_job_that_fails_after_all_its_attempts_is_charged_for_each(paid: AppClient) -> None:
    key, info = paid.services.keys.create("k", plan="day")
    worker = JobWorker(paid)
    job_id = job_of(submit(paid, model="silent", max_tokens=500, key=key))
    for _ in range(2):
        worker.run()
        waits_again(paid, worker)
    worker.run()
    assert ask(paid, job_id, key=key).json["status"] == "failed"
    (row,) = paid.rows()
    assert outcomes(row) == [("silent", "timeout_first_byte", 500)] * 3
    assert (
        row["cost_nanousd"]
        == counter(paid, info.key_id, "budget_usd_per_day")
        == row["prompt_tokens"] * 1000 + 3_000_000
    )
    assert paid.keys("penstock:reservations:*") == []


def test_a_job_of_dead_workers_reserves_what_they_may_have_cost(paid: AppClient) -> None:
    """Each attempt may cost $0.002 and a prompt; the budget is $0.01."""
    jobs, worker = paid.services.queue.jobs, JobWorker(paid)
    key, info = paid.services.keys.create("k", plan="day")
    job_id = job_of(submit(paid, model="rescued", max_tokens=1000, key=key))
    for _ in range(2):
        assert jobs.claim("dies", 60) is not None
        paid.services.redis.execute("ZADD", "penstock:queue:running", 1, job_id)  # its lease has passed
        worker.runner.beat()
    reserved: list[int] = []
    settle = paid.services.admission.settle

    def noted(*args: Any, **kwargs: Any) -> None:
        reserved.append(counter(paid, info.key_id, "budget_usd_per_day"))
        settle(*args, **kwargs)

    paid.services.admission.settle = noted  # type: ignore[method-assign]
    worker.run()
    assert ask(paid, job_id, key=key).json["status"] == "completed"
    (row,) = paid.rows()
    assert [outcome for _, outcome, _ in outcomes(row)] == ["worker_lost", "worker_lost", "timeout_first_byte", "ok"]
    assert reserved[0] >= 4 * 1000 * 2000, "two that are lost, one that never answered, and the one that did"
    assert row["cost_nanousd"] == counter(paid, info.key_id, "budget_usd_per_day") <= 10_000_000


def test_a_job_settled_by_a_worker_that_died_is_answered_and_charged_once(
    paid: AppClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs, worker = paid.services.queue.jobs, JobWorker(paid)
    key, info = paid.services.keys.create("k", plan="day")
    job_id = job_of(submit(paid, model="rescued", max_tokens=1000, key=key))
    with monkeypatch.context() as dies:
        dies.setattr(jobs, "finish", lambda *args, **kwargs: "")
        worker.run()
    charged = counter(paid, info.key_id, "budget_usd_per_day")
    paid.services.redis.execute("ZADD", "penstock:queue:running", 1, job_id)  # its lease has passed
    worker.runner.beat()
    worker.run()
    assert ask(paid, job_id, key=key).json["status"] == "completed"
    (row,) = paid.rows()
    assert row["cost_nanousd"] == charged == counter(paid, info.key_id, "budget_usd_per_day") > 0


def test_a_job_whose_submission_was_told_to_have_failed_is_not_run(paid: AppClient, upstream: Upstream) -> None:
    """The queue took it, and its answer was lost: the caller asks again, and nothing is reserved for this one."""
    key, info = paid.services.keys.create("k", plan="day")
    job_id = job_of(submit(paid, model="rescued", max_tokens=10, key=key))
    held = DeferredCall.decode(paid.services.redis.execute("HGET", f"penstock:job:{job_id}", "held"))
    caller = paid.services.callers.verify(key)
    paid.services.admission.cancel(held.admitted(caller), paid.services.heartbeat.reservations_key)
    JobWorker(paid).run()
    assert ask(paid, job_id, key=key).json["status"] == "cancelled"
    assert upstream.served().get("calls", 0) == 0
    assert paid.rows() == []
    assert counter(paid, info.key_id, "budget_usd_per_day") == 0
    assert paid.keys("penstock:reservations:*") == []


@pytest.mark.parametrize(("model", "stream"), [("status-500", False), ("status-400", False), ("errorevent-0", True)])
def test_a_refusal_costs_nothing(paid: AppClient, model: str, stream: bool) -> None:
    assert paid.chat(model, stream=stream).status_code >= 400
    row = last(paid)
    assert (row["cost_nanousd"], row["prompt_tokens"], outcomes(row)) == (0, 0, [])


def test_a_vendor_that_was_never_reached_costs_nothing(
    client_with: Callable[[str], AppClient], upstream: Upstream
) -> None:
    nowhere = client_with(CONFIG % "http://127.0.0.1:9/v1")
    assert nowhere.chat("silent").status_code == 503
    assert last(nowhere)["cost_nanousd"] == 0


def test_a_stream_that_is_cut_is_charged_with_what_was_streamed(paid: AppClient) -> None:
    paid.chat("cut-3", stream=True)
    row = last(paid)
    assert (row["completion_tokens"], row["estimated"], outcomes(row)) == (3, True, [])
    assert row["cost_nanousd"] == row["prompt_tokens"] * 1000 + 3 * 2000


def test_the_budget_pays_for_attempts_without_an_answer_and_ends_them(paid: AppClient, upstream: Upstream) -> None:
    """Each attempt may cost 1,000 tokens at $2 a million; $0.01 is enough for four of them, and not for five."""
    key, info = paid.services.keys.create("k", plan="day")
    statuses: list[int] = []
    while not statuses or (statuses[-1] == 504 and len(statuses) < 20):
        statuses.append(paid.chat("silent", key=key).status_code)
    assert statuses == [504, 504, 504, 504, 429]
    assert upstream.served()["calls"] == 4
    rows = paid.rows()
    assert {outcomes(row)[0] for row in rows} == {("silent", "timeout_first_byte", 1000)}, (
        "the most that it can have been"
    )
    assert counter(paid, info.key_id, "budget_usd_per_day") == sum(row["cost_nanousd"] for row in rows) <= 10_000_000
    used = sum(row["prompt_tokens"] + row["completion_tokens"] for row in rows)
    assert counter(paid, info.key_id, "tokens_per_day") == used


def test_a_fallback_is_not_tried_when_the_budget_has_no_room_for_it(paid: AppClient, upstream: Upstream) -> None:
    """The model's longest answer is 16,384 tokens, $0.0328: with $0.05 a second attempt does not fit."""
    key, info = paid.services.keys.create("k", plan="day")
    assert paid.chat("rescued", key=key, max_tokens=3000).status_code == 504
    assert upstream.served()["by_model"] == {"silent": 1}
    assert paid.chat("rescued", key=key, max_tokens=700).status_code == 200
    rows = paid.rows()
    assert [outcomes(row)[-1][1] for row in rows] == ["timeout_first_byte", "ok"]
    assert counter(paid, info.key_id, "budget_usd_per_day") == sum(row["cost_nanousd"] for row in rows) <= 10_000_000
    assert paid.keys("penstock:reservations:*") == []


def test_a_worker_that_dies_in_its_second_attempt_is_charged_for_both(paid: AppClient, upstream: Upstream) -> None:
    services = paid.services
    key, _ = services.keys.create("k", plan="day")
    seen: list[Any] = []
    original = services.admission.cover

    def die(*args: Any, **kwargs: Any) -> None:
        original(*args, **kwargs)
        redis = services.redis
        (name,) = redis.execute("KEYS", "penstock:reservation:*")
        seen.append([json.loads(redis.execute("HGET", name, field)) for field in ("c", "d")])

    services.admission.cover = die  # type: ignore[method-assign]
    paid.chat("rescued", key=key, max_tokens=700)
    (taken, recorded) = seen[0]
    assert outcomes(recorded["row"]) == [("silent", "timeout_first_byte", 700), ("", "lost", 700)]
    assert recorded["row"]["completion_tokens"] == 1400
    money = recorded["row"]["cost_nanousd"]
    assert str(money) in map(str, recorded["args"]), "what the reaper charges"
    assert max(taken) >= 2 * 700 * 2000, "money for two attempts is reserved"

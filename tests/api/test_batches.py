"""Batches over HTTP, fed and run in this process, step by step, on a real Redis."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.api.batching import (
    BatchWorker,
    batch,
    both,
    call,
    content,
    create,
    created,
    failures,
    idle,
    jsonl,
    line,
    uploaded,
    with_body,
)
from tests.api.batching import build_client as build_client
from tests.api.conftest import AppClient


def test_a_batch_runs_line_by_line_and_answers_in_openais_shapes(build_client: Callable[..., AppClient]) -> None:
    client = build_client()
    batch_id = created(client, [line(i, content=f"Say {i}") for i in (1, 2, 3)], metadata={"run": "7"})
    new = batch(client, batch_id)
    assert (new["object"], new["completion_window"], new["metadata"]) == ("batch", "24h", {"run": "7"})
    assert new["expires_at"] - new["created_at"] == 86_400
    worker = BatchWorker(client)
    worker.step(2)
    running = batch(client, batch_id)
    assert (running["status"], running["request_counts"]["total"]) == ("in_progress", 3)
    worker.work()
    done = batch(client, batch_id)
    assert (done["status"], done["error_file_id"], done["errors"]) == ("completed", None, None)
    assert done["request_counts"] == {"total": 3, "completed": 3, "failed": 0}
    assert done["created_at"] <= done["in_progress_at"] <= done["finalizing_at"] <= done["completed_at"]
    output = content(client, done["output_file_id"])
    assert [row["custom_id"] for row in output] == ["n1", "n2", "n3"]
    assert len({row["id"] for row in output}) == 3
    first = output[0]
    assert set(first) == {"id", "custom_id", "response", "error"}
    assert (first["error"], first["response"]["status_code"]) == (None, 200)
    assert first["response"]["body"]["object"] == "chat.completion"
    rows = client.rows()
    assert sorted(row["call_id"] for row in rows) == [row["response"]["request_id"] for row in output]
    assert {(row["status"], row["cost_nanousd"], row["job_id"]) for row in rows} == {
        ("ok", 17_000, row["call_id"]) for row in rows
    }
    file = call(client, "GET", f"/v1/files/{done['output_file_id']}").json
    assert (file["purpose"], file["filename"]) == ("batch_output", f"{batch_id}_output.jsonl")
    idle(client)


def test_embeddings_can_be_batched(build_client: Callable[..., AppClient]) -> None:
    client = build_client()
    lines = [{**line(i), "url": "/v1/embeddings", "body": {"model": "m", "input": f"text {i}"}} for i in (1, 2)]
    batch_id = created(client, lines, endpoint="/v1/embeddings")
    BatchWorker(client).work()
    output, errors = both(client, batch_id)
    assert [row["response"]["body"]["object"] for row in output] == ["list", "list"]
    assert errors == []


def test_bad_lines_fail_alone_and_the_error_file_names_them(build_client: Callable[..., AppClient]) -> None:
    client = build_client(more="plans: {default: {requests_per_day: 100}}\n")
    lines = [
        line("good"),
        b'{"custom_id": "torn", "method"',
        b"",
        line(custom_id="n1"),
        line(custom_id="n1"),
        line("get", method="GET"),
        line("url", url="/v1/embeddings"),
        with_body(8, stream=True),
        with_body(9, model="unknown"),
        {"custom_id": "no body", "method": "POST", "url": "/v1/chat/completions"},
        with_body(11, messages=[]),
        b"[" * 100_000,
        b"\xff\xfe",
        line("last"),
    ]
    batch_id = created(client, lines)
    BatchWorker(client).work()
    output, errors = both(client, batch_id)
    assert [row["custom_id"] for row in output] == ["ngood", "n1", "nlast"]
    torn = next(row for row in errors if row["error"] and row["error"]["line"] == 2)
    assert (torn["custom_id"], torn["response"], torn["error"]["code"]) == (None, None, "invalid_json_line")
    assert {row["error"]["line"] for row in errors if row["error"]} == {2, 5, 6, 7, 10, 12, 13}
    found = failures(errors)
    assert {name: found[name] for name in ("n1", "nget", "nurl", "n8", "n9", "no body", "n11")} == {
        "n1": "duplicate_custom_id",
        "nget": "invalid_method",
        "nurl": "url_mismatch",
        "n8": "INVALID_REQUEST",
        "n9": "MODEL_NOT_FOUND",
        "no body": "invalid_line",
        "n11": "INVALID_REQUEST",
    }
    [streamed] = [row for row in errors if row["custom_id"] == "n8"]
    assert (streamed["response"]["status_code"], streamed["response"]["body"]["error"]["param"]) == (400, "stream")
    assert batch(client, batch_id)["request_counts"] == {"total": 13, "completed": 3, "failed": 10}
    assert len(client.rows()) == 3
    idle(client)


def test_a_model_that_the_key_may_not_use_is_that_lines_error(build_client: Callable[..., AppClient]) -> None:
    client = build_client(more="  other:\n    targets: [{provider: a}]\n")
    key, _ = client.services.keys.create("narrow", models=["m"])
    batch_id = created(client, [line(1), with_body(2, model="other")], key=key)
    BatchWorker(client).work()
    found = call(client, "GET", f"/v1/batches/{batch_id}", key=key).json
    errors = call(client, "GET", f"/v1/files/{found['error_file_id']}/content", key=key)
    assert failures([json.loads(errors.text)]) == {"n2": "FORBIDDEN"}
    assert found["request_counts"] == {"total": 2, "completed": 1, "failed": 1}


@pytest.mark.parametrize(
    ("data", "code", "line_number"),
    [
        (b"", "empty_file", None),
        (b"\n \n", "empty_file", None),
        (jsonl([line(i) for i in range(6)]), "too_many_tasks", None),
        (b"nonsense\n", "invalid_json_line", 1),
    ],
)
def test_a_file_of_which_nothing_can_be_run_fails_the_batch(
    build_client: Callable[..., AppClient], data: bytes, code: str, line_number: int | None
) -> None:
    client = build_client(more="batch: {max_lines: 5}\n")
    batch_id = create(client, uploaded(client, data)).json["id"]
    BatchWorker(client).work()
    found = batch(client, batch_id)
    assert found["status"] == "failed"
    assert found["failed_at"] >= found["created_at"]
    [error] = found["errors"]["data"]
    assert (error["code"], error["line"]) == (code, line_number)
    assert found["request_counts"]["completed"] == 0
    assert client.rows() == []
    idle(client)


def test_a_line_that_the_provider_refuses_is_in_the_error_file(build_client: Callable[..., AppClient]) -> None:
    client = build_client(script="fail_status: 400")
    batch_id = created(client, [line()])
    BatchWorker(client).work()
    output, [error] = both(client, batch_id)
    assert output == []
    assert (error["error"], error["response"]["status_code"]) == (None, 400)
    assert error["response"]["body"]["error"]["code"] == "INVALID_REQUEST"
    assert batch(client, batch_id)["output_file_id"] is None
    assert [row["status"] for row in client.rows()] == ["error"]


def test_only_a_window_of_lines_is_in_the_queue(build_client: Callable[..., AppClient]) -> None:
    client = build_client(more="batch: {window: 3}\n")
    created(client, [line(i) for i in range(10)])
    worker = BatchWorker(client)
    worker.step(4)
    assert client.services.queue.depth().waiting == 3
    worker.work()
    assert len(client.rows()) == 10


def test_batches_fill_half_of_the_queue_and_keys_share_it_equally(build_client: Callable[..., AppClient]) -> None:
    client = build_client(more="queue: {max_jobs: 40}\n")
    key, info = client.services.keys.create("other")
    ids = [created(client, [line(i) for i in range(20)]) for _ in range(3)]
    worker = BatchWorker(client)
    worker.step(3)
    assert client.services.queue.depth().waiting == 18, "six each"
    worker.run()
    created(client, [line(i) for i in range(20)], key=key)
    worker.step(3)
    [theirs] = client.keys(f"penstock:queue:of:{info.key_id}")
    assert client.services.redis.execute("ZCARD", theirs) == 10
    assert client.services.queue.depth().waiting == 19, "three each of the other three"
    worker.work(rounds=30)
    assert {batch(client, batch_id)["request_counts"]["completed"] for batch_id in ids} == {20}


def test_a_runner_keeps_to_its_share_and_to_twice_its_plans_concurrency(
    build_client: Callable[..., AppClient],
) -> None:
    client = build_client(more="plans: {default: {concurrency: 3}}\n")
    created(client, [line(i) for i in range(20)])
    [runner] = BatchWorker(client).supervisor.claim()
    waiting = []
    for queue_share in (0, 2, 5, 50):
        assert not runner.step(queue_share).done
        waiting.append(client.services.queue.depth().waiting)
    assert waiting == [0, 2, 5, 6], "the first step only looks through the file"


def test_a_full_queue_and_a_rate_limit_make_lines_wait_and_none_fails(build_client: Callable[..., AppClient]) -> None:
    client = build_client(more="plans: {default: {requests_per_minute: 2, requests_per_month: 100}}\n")
    batch_id = created(client, [line(i) for i in range(4)])
    worker = BatchWorker(client)
    worker.step(3)
    assert client.services.queue.depth().waiting == 2
    worker.run()
    worker.step(3)
    assert client.services.queue.depth().waiting == 0, "it waits as long as the limit says"
    client.services.redis.execute("DEL", *client.keys("penstock:limit:dev:requests_per_minute*"))
    worker.later_s = 61
    worker.work()
    assert batch(client, batch_id)["request_counts"] == {"total": 4, "completed": 4, "failed": 0}
    [used] = client.keys("penstock:limit:dev:requests_per_month:*")
    assert client.services.redis.execute("GET", used) == b"4"


def test_a_queue_that_others_have_filled_is_waited_for(build_client: Callable[..., AppClient]) -> None:
    client = build_client(more="queue: {max_bytes: 16384}\n")
    batch_id = created(client, [line(i, content="x" * 2400) for i in range(3)])
    worker = BatchWorker(client)
    worker.step(4)
    assert client.services.queue.depth().waiting == 1
    for _ in range(3):
        worker.run()
        worker.later_s += 61
        worker.step(2)
    worker.work()
    assert batch(client, batch_id)["request_counts"]["completed"] == 3
    assert [row["status"] for row in client.rows()] == ["ok"] * 3
    idle(client)


def test_what_the_budget_does_not_allow_is_that_lines_error(build_client: Callable[..., AppClient]) -> None:
    client = build_client(more="plans: {default: {budget_usd_per_month: 0.0005}}\n")
    batch_id = created(client, [with_body(i, max_tokens=100) for i in range(3)])
    BatchWorker(client).work()
    output, errors = both(client, batch_id)
    assert len(output) == 1
    assert set(failures(errors).values()) == {"BUDGET_EXCEEDED"}
    assert {row["response"]["status_code"] for row in errors} == {429}
    assert len(client.rows()) == 1


def test_the_lines_of_a_key_that_was_revoked_fail(build_client: Callable[..., AppClient]) -> None:
    client = build_client(more="batch: {window: 1}\n")
    key, info = client.services.keys.create("short lived")
    created(client, [line(i) for i in range(3)], key=key)
    worker = BatchWorker(client)
    worker.step(2)
    worker.run()
    client.services.keys.revoke(info.key_id)
    worker.work()
    [found] = client.services.batches.list(info.key_id, limit=1)[0]
    assert (found.status, found.completed, found.failed) == ("completed", 1, 2)
    assert len(client.rows()) == 1


def test_cancelling_ends_what_waits_and_keeps_what_was_finished(build_client: Callable[..., AppClient]) -> None:
    client = build_client(more="batch: {window: 2}\nplans: {default: {tokens_per_day: 10000}}\n")
    batch_id = created(client, [line(i) for i in range(5)])
    worker = BatchWorker(client)
    worker.step(2)
    worker.run()
    worker.step()
    answer = call(client, "POST", f"/v1/batches/{batch_id}/cancel")
    assert (answer.status_code, answer.json["status"]) == (200, "cancelling")
    assert call(client, "POST", f"/v1/batches/{batch_id}/cancel").json["status"] == "cancelling"
    worker.step(3)
    found = batch(client, batch_id)
    assert found["status"] == "cancelled"
    assert found["created_at"] <= found["cancelling_at"] <= found["cancelled_at"]
    output, errors = both(client, batch_id)
    assert [row["custom_id"] for row in output] == ["n0", "n1"]
    assert failures(errors) == dict.fromkeys(["n2", "n3", "n4"], "batch_cancelled")
    assert found["request_counts"] == {"total": 5, "completed": 2, "failed": 3}
    assert sorted(row["status"] for row in client.rows()) == ["aborted", "aborted", "ok", "ok"]
    [tokens] = client.keys("penstock:limit:dev:tokens_per_day:*")
    assert client.services.redis.execute("GET", tokens) == b"24"
    again = call(client, "POST", f"/v1/batches/{batch_id}/cancel")
    assert again.json["status"] == "cancelled"
    idle(client)


def test_a_batch_that_was_cancelled_before_it_began_has_no_files(build_client: Callable[..., AppClient]) -> None:
    client = build_client()
    batch_id = created(client, [line()])
    call(client, "POST", f"/v1/batches/{batch_id}/cancel")
    BatchWorker(client).work()
    found = batch(client, batch_id)
    assert (found["status"], found["output_file_id"], found["error_file_id"]) == ("cancelled", None, None)
    assert client.rows() == []


def test_a_batch_that_has_ended_cannot_be_cancelled(build_client: Callable[..., AppClient]) -> None:
    client = build_client()
    batch_id = created(client, [line()])
    BatchWorker(client).work()
    answer = call(client, "POST", f"/v1/batches/{batch_id}/cancel")
    assert (answer.status_code, answer.headers["x-should-retry"]) == (409, "false")
    assert "completed" in answer.json["error"]["message"]


def test_what_is_not_done_when_the_window_closes_has_expired(build_client: Callable[..., AppClient]) -> None:
    client = build_client(more="batch: {window: 1}\n")
    batch_id = created(client, [line(i) for i in range(3)])
    worker = BatchWorker(client)
    worker.step(2)
    worker.run()
    worker.step()
    worker.later_s = 86_401
    worker.step(3)
    found = batch(client, batch_id)
    assert (found["status"], found["expired_at"] > found["expires_at"]) == ("expired", True)
    output, errors = both(client, batch_id)
    assert [row["custom_id"] for row in output] == ["n0"]
    assert failures(errors) == {"n1": "batch_expired", "n2": "batch_expired"}
    assert [row["response"] for row in errors] == [None, None]
    idle(client)


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"endpoint": "/v1/responses"}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"input_file_id": "file-unknown"}, "input_file_id"),
        ({"input_file_id": 7}, "input_file_id"),
        ({"metadata": {"k": "x" * 513}}, "metadata[...]"),
        ({"metadata": {f"k{i}": "" for i in range(17)}}, "metadata"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, "output_expires_after.seconds"),
    ],
)
def test_a_batch_that_is_asked_for_wrongly_is_refused(
    build_client: Callable[..., AppClient], wrong: dict[str, Any], param: str
) -> None:
    client = build_client()
    answer = create(client, uploaded(client, jsonl([line()])), **wrong)
    status = 404 if wrong.get("input_file_id") == "file-unknown" else 400
    assert (answer.status_code, answer.json["error"]["param"]) == (status, param), answer.text
    assert call(client, "GET", "/v1/batches").json["data"] == []


def test_a_key_has_only_so_many_batches_that_have_not_ended(build_client: Callable[..., AppClient]) -> None:
    client = build_client(more="batch: {max_unfinished_per_key: 2}\n")
    file_id = uploaded(client, jsonl([line()]))
    ids = [create(client, file_id).json["id"] for _ in range(2)]
    assert create(client, file_id).status_code == 409
    listed = call(client, "GET", "/v1/batches?limit=1").json
    assert ([row["id"] for row in listed["data"]], listed["has_more"]) == ([ids[1]], True)
    older = call(client, "GET", f"/v1/batches?after={ids[1]}").json
    assert ([row["id"] for row in older["data"]], older["has_more"]) == ([ids[0]], False)
    BatchWorker(client).work()
    assert create(client, file_id).status_code == 200

"""Files and batches over HTTP, fed and run in this process, step by step, on a real Redis."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from werkzeug.test import TestResponse

from app.errors import StoreUnavailable
from app.jobs.batches import Feeder
from app.jobs.feed import Feed
from tests.api.conftest import Edge
from tests.api.test_jobs import ANSWERED, DEMO, Worker, open_reservations

_NO_LINES: list[dict[str, Any]] = []


class Feeding(Worker):
    """A worker process: its runner, and its feeder with a clock to step."""

    def __init__(self, edge: Edge, *, name: str = "w1") -> None:
        super().__init__(edge, name=name)
        found = edge.services
        self.later_s = 0.0
        self.feeder = Feeder(
            queue=found.queue, callers=found.callers, batches=found.batches, files=found.files,
            config=found.settings.config, directory=found.settings.data_dir / "batches",
            clock=lambda: time.time() + self.later_s, pause=lambda _: None,
        )  # fmt: skip
        self.feeds: list[Feed] = []

    def feed(self, times: int = 1) -> None:
        """One step of each batch, or several."""
        for _ in range(times):
            self.feeds += self.feeder.look()
            for feed in list(self.feeds):
                if feed.step() is None:
                    self.feeder.release(feed)
                    self.feeds.remove(feed)

    def work(self, rounds: int = 10) -> None:
        """Feeds and runs until nothing is left."""
        for _ in range(rounds):
            self.feed(2)
            if not self.feeds:
                return
            self.run()
        raise AssertionError("the batches did not end")

    def die(self) -> None:
        """As with kill -9: the kernel closes the files, nothing else happens."""
        for feed in self.feeds:
            feed.release()


@pytest.fixture
def made(edge: Callable[[str], Edge]) -> Callable[..., Edge]:
    """The application with one demo model `m`."""

    def build(script: str = ANSWERED, more: str = "") -> Edge:
        return edge(DEMO.format(script=script) + more)

    return build


def line(number: int | str = 1, *, custom_id: str | None = None, content: str = "Hi", **more: Any) -> dict[str, Any]:
    body = {"model": "m", "messages": [{"role": "user", "content": content}]}
    return {
        "custom_id": custom_id or f"n{number}", "method": "POST", "url": "/v1/chat/completions", "body": body, **more,
    }  # fmt: skip


def with_body(number: int = 1, **body: Any) -> dict[str, Any]:
    found = line(number)
    found["body"] |= body
    return found


def jsonl(lines: list[Any]) -> bytes:
    return b"".join((text if isinstance(text, bytes) else json.dumps(text).encode()) + b"\n" for text in lines)


def call(edge: Edge, method: str, path: str, *, key: str | None = None, **sent: Any) -> TestResponse:
    answer: TestResponse = edge._client.open(
        path, method=method, headers={"Authorization": f"Bearer {key or edge.key}"}, **sent
    )
    return answer


def upload(edge: Edge, content: bytes, *, purpose: str = "batch", key: str | None = None, **more: Any) -> TestResponse:
    form = {"purpose": purpose, "file": (io.BytesIO(content), "in.jsonl"), **more}
    return call(edge, "POST", "/v1/files", key=key, data=form, content_type="multipart/form-data")


def uploaded(edge: Edge, content: bytes, key: str | None = None) -> str:
    answer = upload(edge, content, key=key)
    assert answer.status_code == 200, answer.text
    return str(answer.json["id"])


def create(edge: Edge, file_id: str, *, key: str | None = None, **more: Any) -> TestResponse:
    body = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h", **more}
    return call(edge, "POST", "/v1/batches", key=key, json=body)


def created(edge: Edge, lines: list[Any], *, key: str | None = None, **more: Any) -> str:
    answer = create(edge, uploaded(edge, jsonl(lines), key), key=key, **more)
    assert (answer.status_code, answer.json["status"]) == (200, "validating"), answer.text
    return str(answer.json["id"])


def batch(edge: Edge, batch_id: str) -> dict[str, Any]:
    found: dict[str, Any] = call(edge, "GET", f"/v1/batches/{batch_id}").json
    return found


def content(edge: Edge, file_id: str | None) -> list[dict[str, Any]]:
    if file_id is None:
        return _NO_LINES
    answer = call(edge, "GET", f"/v1/files/{file_id}/content")
    assert answer.status_code == 200, answer.text
    return [json.loads(text) for text in answer.text.splitlines()]


def both(edge: Edge, batch_id: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The lines of the output and of the error file."""
    found = batch(edge, batch_id)
    return content(edge, found["output_file_id"]), content(edge, found["error_file_id"])


def failures(errors: list[dict[str, Any]]) -> dict[Any, Any]:
    """custom_id → the code, wherever it is."""
    return {
        row["custom_id"]: (row["error"] or {}).get("code") or row["response"]["body"]["error"]["code"] for row in errors
    }


def results_file(edge: Edge) -> Path:
    [path] = (edge.services.settings.data_dir / "batches").glob("*.results")
    return path


def idle(edge: Edge) -> None:
    """Nothing is left of batches in Redis, nor on disk beside the files."""
    assert edge.keys("penstock:job:*") == edge.keys("penstock:idempotency:*") == open_reservations(edge) == []
    assert list((edge.services.settings.data_dir / "batches").iterdir()) == []
    assert [path.name for path in (edge.services.settings.data_dir / "files").glob("upload.*")] == []


# Files


def test_a_file_is_uploaded_shown_listed_read_and_deleted(made: Callable[..., Edge]) -> None:
    edge = made()
    data = jsonl([line(content="x" * i) for i in range(1500)])
    file = upload(edge, data).json
    assert (file["object"], file["bytes"], file["purpose"], file["filename"], file["status"]) == (
        "file", len(data), "batch", "in.jsonl", "processed",
    )  # fmt: skip
    assert file["expires_at"] - file["created_at"] == 30 * 86_400
    assert call(edge, "GET", f"/v1/files/{file['id']}").json == file
    second = uploaded(edge, data)
    listed = call(edge, "GET", "/v1/files").json
    assert [row["id"] for row in listed["data"]] == [second, file["id"]]
    assert (listed["has_more"], listed["first_id"], listed["last_id"]) == (False, second, file["id"])
    older = call(edge, "GET", f"/v1/files?limit=1&after={second}").json
    assert ([row["id"] for row in older["data"]], older["has_more"]) == ([file["id"]], False)
    assert call(edge, "GET", "/v1/files?purpose=batch_output").json["data"] == []
    read = call(edge, "GET", f"/api/v1/files/{file['id']}/content")
    assert (read.data, read.mimetype) == (data, "application/octet-stream")
    gone = call(edge, "DELETE", f"/v1/files/{file['id']}")
    assert gone.json == {"id": file["id"], "object": "file", "deleted": True}
    assert call(edge, "GET", f"/v1/files/{file['id']}").status_code == 404
    assert len(list((edge.services.settings.data_dir / "files").iterdir())) == 1


def test_only_batch_files_are_taken_and_what_is_refused_leaves_nothing(made: Callable[..., Edge]) -> None:
    edge = made(more="batch: {max_file_bytes: 2000}\n")
    cases = {
        "purpose": upload(edge, b"{}", purpose="fine-tune"),
        "file": call(edge, "POST", "/v1/files", data={"purpose": "batch", "other": (io.BytesIO(b"x"), "x")},
                     content_type="multipart/form-data"),
        "expires_after": upload(edge, b"{}", **{"expires_after[anchor]": "created_at", "expires_after[seconds]": "5"}),
    }  # fmt: skip
    assert {param: (a.status_code, a.json["error"]["param"]) for param, a in cases.items()} == {
        param: (400, param) for param in cases
    }
    too_long = upload(edge, b"x" * 2001)
    assert (too_long.status_code, too_long.json["code"]) == (413, "REQUEST_TOO_LARGE")
    much_too_long = upload(edge, b"x" * 200_000)
    assert (much_too_long.status_code, much_too_long.json["code"]) == (413, "REQUEST_TOO_LARGE")
    broken = call(edge, "POST", "/v1/files", data=b"--b\r\nnonsense", content_type="multipart/form-data; boundary=b")
    assert (broken.status_code, broken.json["code"]) == (400, "INVALID_REQUEST")
    assert call(edge, "POST", "/v1/files", json={}).status_code == 415
    assert list((edge.services.settings.data_dir / "files").iterdir()) == []
    assert call(edge, "GET", "/v1/files").json["data"] == []


def test_a_key_can_only_fill_its_own_share_of_the_disk(made: Callable[..., Edge]) -> None:
    edge = made(more="batch: {max_files_per_key: 3, max_bytes_per_key: 2000}\n")
    first = uploaded(edge, b"x" * 1500)
    refused = upload(edge, b"x" * 600)
    assert (refused.status_code, refused.json["error"]["param"]) == (400, "file")
    assert "Delete some" in refused.json["error"]["message"]
    uploaded(edge, b"x" * 200)
    uploaded(edge, b"x")
    assert upload(edge, b"x").status_code == 400
    call(edge, "DELETE", f"/v1/files/{first}")
    uploaded(edge, b"x")
    assert len(list((edge.services.settings.data_dir / "files").iterdir())) == 3


def test_a_key_uploads_only_so_many_files_at_once(made: Callable[..., Edge]) -> None:
    edge = made()
    begun = [edge.services.files.begin("dev") for _ in range(4)]
    refused = upload(edge, b"{}")
    assert (refused.status_code, refused.json["code"]) == (503, "NOT_READY")
    begun[0].discard()
    assert upload(edge, b"{}").status_code == 200


@pytest.mark.parametrize("path", ["/v1/files/{}", "/v1/files/{}/content", "/v1/batches/{}"])
def test_bug_07_anothers_files_and_batches_do_not_exist(made: Callable[..., Edge], path: str) -> None:
    edge = made()
    other, _ = edge.services.keys.create("other")
    batch_id = created(edge, [line()])
    mine = batch_id if "batches" in path else batch(edge, batch_id)["input_file_id"]
    for wanted in (mine, mine[:-1] + "x", "..%2F..%2Fledger.db", "%00"):
        answer = call(edge, "GET", path.format(wanted), key=other)
        assert (answer.status_code, answer.json["code"]) == (404, "NOT_FOUND")
    assert call(edge, "GET", path.format(mine)).status_code == 200
    assert call(edge, "DELETE", path.format(mine).replace("/content", ""), key=other).status_code in (404, 405)
    if "batches" in path:
        assert call(edge, "POST", f"/v1/batches/{mine}/cancel", key=other).status_code == 404
        assert call(edge, "GET", "/v1/batches", key=other).json["data"] == []
    else:
        stolen = create(edge, mine, key=other)
        assert (stolen.status_code, stolen.json["error"]["param"]) == (400, "input_file_id")
        assert call(edge, "GET", "/v1/files", key=other).json["data"] == []


# Batches


def test_a_batch_runs_line_by_line_and_answers_in_openais_shapes(made: Callable[..., Edge]) -> None:
    edge = made()
    batch_id = created(edge, [line(i, content=f"Say {i}") for i in (1, 2, 3)], metadata={"run": "7"})
    new = batch(edge, batch_id)
    assert (new["object"], new["completion_window"], new["metadata"]) == ("batch", "24h", {"run": "7"})
    assert new["expires_at"] - new["created_at"] == 86_400
    worker = Feeding(edge)
    worker.feed(2)
    running = batch(edge, batch_id)
    assert (running["status"], running["request_counts"]["total"]) == ("in_progress", 3)
    worker.work()
    done = batch(edge, batch_id)
    assert (done["status"], done["error_file_id"], done["errors"]) == ("completed", None, None)
    assert done["request_counts"] == {"total": 3, "completed": 3, "failed": 0}
    assert done["created_at"] <= done["in_progress_at"] <= done["finalizing_at"] <= done["completed_at"]
    output = content(edge, done["output_file_id"])
    assert [row["custom_id"] for row in output] == ["n1", "n2", "n3"]
    assert len({row["id"] for row in output}) == 3
    first = output[0]
    assert set(first) == {"id", "custom_id", "response", "error"}
    assert (first["error"], first["response"]["status_code"]) == (None, 200)
    assert first["response"]["body"]["object"] == "chat.completion"
    rows = edge.rows()
    assert sorted(row["call_id"] for row in rows) == [row["response"]["request_id"] for row in output]
    assert {(row["status"], row["cost_nanousd"], row["job_id"]) for row in rows} == {
        ("ok", 17_000, row["call_id"]) for row in rows
    }
    file = call(edge, "GET", f"/v1/files/{done['output_file_id']}").json
    assert (file["purpose"], file["filename"]) == ("batch_output", f"{batch_id}_output.jsonl")
    idle(edge)


def test_embeddings_can_be_batched(made: Callable[..., Edge]) -> None:
    edge = made()
    lines = [{**line(i), "url": "/v1/embeddings", "body": {"model": "m", "input": f"text {i}"}} for i in (1, 2)]
    batch_id = created(edge, lines, endpoint="/v1/embeddings")
    Feeding(edge).work()
    output, errors = both(edge, batch_id)
    assert [row["response"]["body"]["object"] for row in output] == ["list", "list"]
    assert errors == []


def test_bad_lines_fail_alone_and_the_error_file_names_them(made: Callable[..., Edge]) -> None:
    edge = made(more="plans: {default: {requests_per_day: 100}}\n")
    lines = [
        line("good"),
        b'{"custom_id": "torn", "method"',
        b"",
        line(custom_id="n1"), line(custom_id="n1"),
        line("get", method="GET"),
        line("url", url="/v1/embeddings"),
        with_body(8, stream=True),
        with_body(9, model="unknown"),
        {"custom_id": "no body", "method": "POST", "url": "/v1/chat/completions"},
        with_body(11, messages=[]),
        b"[" * 100_000,
        b"\xff\xfe",
        line("last"),
    ]  # fmt: skip
    batch_id = created(edge, lines)
    Feeding(edge).work()
    output, errors = both(edge, batch_id)
    assert [row["custom_id"] for row in output] == ["ngood", "n1", "nlast"]
    torn = next(row for row in errors if row["error"] and row["error"]["line"] == 2)
    assert (torn["custom_id"], torn["response"], torn["error"]["code"]) == (None, None, "invalid_json_line")
    assert {row["error"]["line"] for row in errors if row["error"]} == {2, 5, 6, 7, 10, 12, 13}
    found = failures(errors)
    assert {name: found[name] for name in ("n1", "nget", "nurl", "n8", "n9", "no body", "n11")} == {
        "n1": "duplicate_custom_id", "nget": "invalid_method", "nurl": "url_mismatch", "n8": "INVALID_REQUEST",
        "n9": "MODEL_NOT_FOUND", "no body": "invalid_line", "n11": "INVALID_REQUEST",
    }  # fmt: skip
    [streamed] = [row for row in errors if row["custom_id"] == "n8"]
    assert (streamed["response"]["status_code"], streamed["response"]["body"]["error"]["param"]) == (400, "stream")
    assert batch(edge, batch_id)["request_counts"] == {"total": 13, "completed": 3, "failed": 10}
    assert len(edge.rows()) == 3
    idle(edge)


def test_a_model_that_the_key_may_not_use_is_that_lines_error(made: Callable[..., Edge]) -> None:
    edge = made(more="  other:\n    targets: [{provider: a}]\n")
    key, _ = edge.services.keys.create("narrow", models=["m"])
    batch_id = created(edge, [line(1), with_body(2, model="other")], key=key)
    Feeding(edge).work()
    found = call(edge, "GET", f"/v1/batches/{batch_id}", key=key).json
    errors = call(edge, "GET", f"/v1/files/{found['error_file_id']}/content", key=key)
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
    made: Callable[..., Edge], data: bytes, code: str, line_number: int | None
) -> None:
    edge = made(more="batch: {max_lines: 5}\n")
    batch_id = create(edge, uploaded(edge, data)).json["id"]
    Feeding(edge).work()
    found = batch(edge, batch_id)
    assert found["status"] == "failed"
    assert found["failed_at"] >= found["created_at"]
    [error] = found["errors"]["data"]
    assert (error["code"], error["line"]) == (code, line_number)
    assert found["request_counts"]["completed"] == 0
    assert edge.rows() == []
    idle(edge)


def test_a_line_that_the_provider_refuses_is_in_the_error_file_with_what_it_said(made: Callable[..., Edge]) -> None:
    edge = made(script="fail_status: 400")
    batch_id = created(edge, [line()])
    Feeding(edge).work()
    output, [error] = both(edge, batch_id)
    assert output == []
    assert (error["error"], error["response"]["status_code"]) == (None, 400)
    assert error["response"]["body"]["error"]["code"] == "INVALID_REQUEST"
    assert batch(edge, batch_id)["output_file_id"] is None
    assert [row["status"] for row in edge.rows()] == ["error"]


def test_only_a_window_of_lines_is_in_the_queue(made: Callable[..., Edge]) -> None:
    edge = made(more="batch: {window: 3}\n")
    created(edge, [line(i) for i in range(10)])
    worker = Feeding(edge)
    worker.feed(4)
    assert edge.services.queue.depth().waiting == 3
    worker.work()
    assert len(edge.rows()) == 10


def test_all_batches_together_leave_half_of_the_queue_to_others(made: Callable[..., Edge]) -> None:
    edge = made(more="queue: {max_jobs: 10}\n")
    ids = [created(edge, [line(i) for i in range(20)]) for _ in range(3)]
    worker = Feeding(edge)
    worker.feed(5)
    assert edge.services.queue.depth().waiting == 5
    for _ in range(20):
        worker.feed()
        worker.run()
    worker.work()
    assert {batch(edge, batch_id)["request_counts"]["completed"] for batch_id in ids} == {20}


def test_a_full_queue_and_a_rate_limit_make_lines_wait_and_none_fails(made: Callable[..., Edge]) -> None:
    edge = made(more="plans: {default: {requests_per_minute: 2, requests_per_month: 100}}\n")
    batch_id = created(edge, [line(i) for i in range(4)])
    worker = Feeding(edge)
    worker.feed(3)
    assert edge.services.queue.depth().waiting == 2
    worker.run()
    worker.feed(3)
    assert edge.services.queue.depth().waiting == 0, "it waits as long as the limit says"
    edge.services.redis.execute("DEL", *edge.keys("penstock:limit:dev:requests_per_minute*"))
    worker.later_s = 61
    worker.work()
    assert batch(edge, batch_id)["request_counts"] == {"total": 4, "completed": 4, "failed": 0}
    [used] = edge.keys("penstock:limit:dev:requests_per_month:*")
    assert edge.services.redis.execute("GET", used) == b"4"


def test_a_queue_that_others_have_filled_is_waited_for(made: Callable[..., Edge]) -> None:
    edge = made(more="queue: {max_bytes: 1024}\n")
    batch_id = created(edge, [line(i, content="x" * 600) for i in range(3)])
    worker = Feeding(edge)
    worker.feed(4)
    assert edge.services.queue.depth().waiting == 1
    for _ in range(3):
        worker.run()
        worker.later_s += 61
        worker.feed(2)
    worker.work()
    assert batch(edge, batch_id)["request_counts"]["completed"] == 3
    assert [row["status"] for row in edge.rows()] == ["ok"] * 3
    idle(edge)


def test_what_the_budget_does_not_allow_is_that_lines_error(made: Callable[..., Edge]) -> None:
    edge = made(more="plans: {default: {budget_usd_per_month: 0.0005}}\n")
    batch_id = created(edge, [with_body(i, max_tokens=100) for i in range(3)])
    Feeding(edge).work()
    output, errors = both(edge, batch_id)
    assert len(output) == 1
    assert set(failures(errors).values()) == {"BUDGET_EXCEEDED"}
    assert {row["response"]["status_code"] for row in errors} == {429}
    assert len(edge.rows()) == 1


def test_the_lines_of_a_key_that_was_revoked_fail(made: Callable[..., Edge]) -> None:
    edge = made(more="batch: {window: 1}\n")
    key, info = edge.services.keys.create("short lived")
    created(edge, [line(i) for i in range(3)], key=key)
    worker = Feeding(edge)
    worker.feed(2)
    worker.run()
    edge.services.keys.revoke(info.key_id)
    worker.work()
    [found] = edge.services.batches.list(info.key_id, limit=1)[0]
    assert (found.status, found.completed, found.failed) == ("completed", 1, 2)
    assert len(edge.rows()) == 1


def test_cancelling_ends_what_waits_and_keeps_what_was_finished(made: Callable[..., Edge]) -> None:
    edge = made(more="batch: {window: 2}\nplans: {default: {tokens_per_day: 10000}}\n")
    batch_id = created(edge, [line(i) for i in range(5)])
    worker = Feeding(edge)
    worker.feed(2)
    worker.run()
    worker.feed()
    answer = call(edge, "POST", f"/v1/batches/{batch_id}/cancel")
    assert (answer.status_code, answer.json["status"]) == (200, "cancelling")
    assert call(edge, "POST", f"/v1/batches/{batch_id}/cancel").json["status"] == "cancelling"
    worker.feed(3)
    found = batch(edge, batch_id)
    assert found["status"] == "cancelled"
    assert found["created_at"] <= found["cancelling_at"] <= found["cancelled_at"]
    output, errors = both(edge, batch_id)
    assert [row["custom_id"] for row in output] == ["n0", "n1"]
    assert failures(errors) == dict.fromkeys(["n2", "n3", "n4"], "batch_cancelled")
    assert found["request_counts"] == {"total": 5, "completed": 2, "failed": 3}
    assert sorted(row["status"] for row in edge.rows()) == ["aborted", "aborted", "ok", "ok"]
    [tokens] = edge.keys("penstock:limit:dev:tokens_per_day:*")
    assert edge.services.redis.execute("GET", tokens) == b"24"
    again = call(edge, "POST", f"/v1/batches/{batch_id}/cancel")
    assert again.json["status"] == "cancelled"
    idle(edge)


def test_a_batch_that_was_cancelled_before_it_began_has_no_files(made: Callable[..., Edge]) -> None:
    edge = made()
    batch_id = created(edge, [line()])
    call(edge, "POST", f"/v1/batches/{batch_id}/cancel")
    Feeding(edge).work()
    found = batch(edge, batch_id)
    assert (found["status"], found["output_file_id"], found["error_file_id"]) == ("cancelled", None, None)
    assert edge.rows() == []


def test_a_batch_that_has_ended_cannot_be_cancelled(made: Callable[..., Edge]) -> None:
    edge = made()
    batch_id = created(edge, [line()])
    Feeding(edge).work()
    answer = call(edge, "POST", f"/v1/batches/{batch_id}/cancel")
    assert (answer.status_code, answer.headers["x-should-retry"]) == (409, "false")
    assert "completed" in answer.json["error"]["message"]


def test_what_is_not_done_when_the_window_closes_has_expired(made: Callable[..., Edge]) -> None:
    edge = made(more="batch: {window: 1}\n")
    batch_id = created(edge, [line(i) for i in range(3)])
    worker = Feeding(edge)
    worker.feed(2)
    worker.run()
    worker.feed()
    worker.later_s = 86_401
    worker.feed(3)
    found = batch(edge, batch_id)
    assert (found["status"], found["expired_at"] > found["expires_at"]) == ("expired", True)
    output, errors = both(edge, batch_id)
    assert [row["custom_id"] for row in output] == ["n0"]
    assert failures(errors) == {"n1": "batch_expired", "n2": "batch_expired"}
    assert [row["response"] for row in errors] == [None, None]
    idle(edge)


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
    made: Callable[..., Edge], wrong: dict[str, Any], param: str
) -> None:
    edge = made()
    answer = create(edge, uploaded(edge, jsonl([line()])), **wrong)
    assert (answer.status_code, answer.json["error"]["param"]) == (400, param), answer.text
    assert call(edge, "GET", "/v1/batches").json["data"] == []


def test_a_key_has_only_so_many_batches_that_have_not_ended(made: Callable[..., Edge]) -> None:
    edge = made(more="batch: {max_unfinished_per_key: 2}\n")
    file_id = uploaded(edge, jsonl([line()]))
    ids = [create(edge, file_id).json["id"] for _ in range(2)]
    assert create(edge, file_id).status_code == 409
    listed = call(edge, "GET", "/v1/batches?limit=1").json
    assert ([row["id"] for row in listed["data"]], listed["has_more"]) == ([ids[1]], True)
    older = call(edge, "GET", f"/v1/batches?after={ids[1]}").json
    assert ([row["id"] for row in older["data"]], older["has_more"]) == ([ids[0]], False)
    Feeding(edge).work()
    assert create(edge, file_id).status_code == 200


def test_a_file_that_a_batch_reads_is_neither_deleted_nor_swept(made: Callable[..., Edge]) -> None:
    edge = made()
    batch_id = created(edge, [line()])
    file_id = batch(edge, batch_id)["input_file_id"]
    answer = call(edge, "DELETE", f"/v1/files/{file_id}")
    assert (answer.status_code, batch_id in answer.json["error"]["message"]) == (409, True)
    with edge.services.database.write() as connection:
        connection.exec_driver_sql("UPDATE files SET expires_at = 1")
    worker = Feeding(edge)
    worker.feeder.sweep()
    worker.work()
    assert batch(edge, batch_id)["status"] == "completed"
    worker.later_s = 3601
    worker.feeder.sweep()
    [left] = (edge.services.settings.data_dir / "files").iterdir()
    assert left.name == batch(edge, batch_id)["output_file_id"]


def test_the_sweep_removes_what_nobody_has_a_row_of(made: Callable[..., Edge]) -> None:
    edge = made()
    kept = uploaded(edge, b"{}")
    directory = edge.services.settings.data_dir / "files"
    for name, age_s in (("upload.dev.1", 90_000), ("file-orphan", 90_000), ("upload.dev.2", 10), (kept, 90_000)):
        (directory / name).touch()
        os.utime(directory / name, (time.time() - age_s,) * 2)
    (edge.services.settings.data_dir / "batches").mkdir()
    (edge.services.settings.data_dir / "batches" / "batch_ended.results").touch()
    Feeding(edge).feeder.sweep()
    assert {path.name for path in directory.iterdir()} == {kept, "upload.dev.2"}
    assert list((edge.services.settings.data_dir / "batches").iterdir()) == []


# Whoever feeds it may die


def test_one_worker_feeds_a_batch_and_another_goes_on_when_it_dies(made: Callable[..., Edge]) -> None:
    edge = made(more="batch: {window: 4}\n")
    batch_id = created(edge, [line(i) for i in range(10)])
    first, second = Feeding(edge), Feeding(edge, name="w2")
    first.feed(2)
    second.feed(2)
    assert (len(first.feeds), second.feeds) == (1, [])
    first.run()
    first.feed()
    first.die()
    second.work()
    output, errors = both(edge, batch_id)
    assert ([row["custom_id"] for row in output], errors) == ([f"n{i}" for i in range(10)], [])
    rows = edge.rows()
    assert sorted(row["request_id"] for row in rows) == sorted(row["response"]["request_id"] for row in output)
    assert len(rows) == 10
    idle(edge)


def test_results_that_were_kept_but_whose_jobs_were_not_dropped_are_not_fetched_again(
    made: Callable[..., Edge], monkeypatch: pytest.MonkeyPatch
) -> None:
    edge = made()
    batch_id = created(edge, [line(i) for i in range(3)])
    first, second = Feeding(edge), Feeding(edge, name="w2")
    first.feed(2)
    first.run()
    with monkeypatch.context() as patch:
        patch.setattr(edge.services.queue.jobs, "forget", _unavailable)
        with pytest.raises(StoreUnavailable):
            first.feed()
    first.die()
    second.work()
    assert len(both(edge, batch_id)[0]) == len(edge.rows()) == 3


def test_a_result_that_was_torn_is_fetched_again(made: Callable[..., Edge], monkeypatch: pytest.MonkeyPatch) -> None:
    edge = made()
    batch_id = created(edge, [line(i) for i in range(3)])
    first, second = Feeding(edge), Feeding(edge, name="w2")
    first.feed(2)
    first.run()
    with monkeypatch.context() as patch:
        patch.setattr(edge.services.queue.jobs, "forget", _unavailable)
        with pytest.raises(StoreUnavailable):
            first.feed()
    first.die()
    path = results_file(edge)
    path.write_bytes(path.read_bytes()[:-20])
    second.work()
    output, errors = both(edge, batch_id)
    assert ([row["custom_id"] for row in output], errors) == (["n0", "n1", "n2"], [])
    assert len(edge.rows()) == 3


@pytest.mark.parametrize("step", ["admitted", "queued"])
def test_a_feeder_killed_while_it_submits_a_line_neither_loses_nor_repeats_it(
    made: Callable[..., Edge], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    edge = made(more="plans: {default: {requests_per_day: 100}}\n")
    batch_id = created(edge, [line(i) for i in range(3)])
    first, second = Feeding(edge), Feeding(edge, name="w2")
    first.feed()
    submit = edge.services.queue.jobs.submit

    def killed(*args: Any, **more: Any) -> Any:
        if step == "queued":
            submit(*args, **more)
        raise _Killed

    with monkeypatch.context() as patch:
        patch.setattr(edge.services.queue.jobs, "submit", killed)
        patch.setattr(edge.services.admission, "cancel", lambda *_: None)  # the dead do not tidy up
        with pytest.raises(_Killed):
            first.feed()
    first.die()
    assert len(open_reservations(edge)) == 1
    edge.services.redis.execute("ZADD", "penstock:workers", 1, edge.services.presence.worker_id)
    edge.services.reaper.run_once()  # its worker has been silent for long
    second.work()
    output, errors = both(edge, batch_id)
    assert ([row["custom_id"] for row in output], errors) == (["n0", "n1", "n2"], [])
    assert [row["status"] for row in edge.rows()] == ["ok"] * 3
    [used] = edge.keys("penstock:limit:dev:requests_per_day:*")
    assert edge.services.redis.execute("GET", used) == b"3"
    idle(edge)


def test_a_batch_is_cancelled_by_another_worker_than_the_one_that_fed_it(made: Callable[..., Edge]) -> None:
    edge = made(more="batch: {window: 3}\n")
    batch_id = created(edge, [line(i) for i in range(6)])
    first, second = Feeding(edge), Feeding(edge, name="w2")
    first.feed(2)
    first.die()
    call(edge, "POST", f"/v1/batches/{batch_id}/cancel")
    second.feed(3)
    assert batch(edge, batch_id)["status"] == "cancelled"
    assert [row["status"] for row in edge.rows()] == ["aborted"] * 3
    idle(edge)


def test_jobs_that_redis_has_lost_are_submitted_again(made: Callable[..., Edge]) -> None:
    edge = made()
    batch_id = created(edge, [line(i) for i in range(3)])
    worker = Feeding(edge)
    worker.feed(2)
    edge.services.redis.execute("FLUSHDB")
    worker.work()
    assert [row["custom_id"] for row in both(edge, batch_id)[0]] == ["n0", "n1", "n2"]


def test_a_batch_whose_results_are_lost_is_not_run_again(made: Callable[..., Edge]) -> None:
    """As after the restore of an older database: the batch ended long ago."""
    edge = made()
    batch_id = created(edge, [line(i) for i in range(3)])
    worker = Feeding(edge)
    worker.work()
    with edge.services.database.write() as connection:
        connection.exec_driver_sql("UPDATE batches SET status = 'in_progress'")
    worker.work()
    found = batch(edge, batch_id)
    assert (found["status"], found["errors"]["data"][0]["code"]) == ("failed", "results_lost")
    assert len(edge.rows()) == 3


def test_a_result_that_nobody_collected_is_that_lines_error(made: Callable[..., Edge]) -> None:
    edge = made()
    batch_id = created(edge, [line(i) for i in range(2)])
    worker = Feeding(edge)
    worker.feed(2)
    worker.run()
    edge.services.redis.execute("DEL", f"penstock:job:{batch_id}-1")
    worker.work()
    output, errors = both(edge, batch_id)
    assert [row["custom_id"] for row in output] == ["n1"]
    assert failures(errors) == {"n0": "result_lost"}


def test_a_disk_that_is_full_for_a_while_costs_no_result(
    made: Callable[..., Edge], monkeypatch: pytest.MonkeyPatch
) -> None:
    edge = made()
    batch_id = created(edge, [line(i) for i in range(3)])
    worker = Feeding(edge)
    worker.feed(2)
    worker.run()
    results = worker.feeds[0]._results
    [part] = [results._file]
    with monkeypatch.context() as patch:
        patch.setattr(results, "_file", _Full(part))
        with pytest.raises(OSError, match="No space left"):
            worker.feed()
    worker.work()
    assert [row["custom_id"] for row in both(edge, batch_id)[0]] == ["n0", "n1", "n2"]
    assert len(edge.rows()) == 3


class _Killed(BaseException):
    """What no code catches."""


class _Full:
    """A file on a disk with room for a few bytes more."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._room = 10

    def write(self, data: Any) -> int:
        if not self._room:
            raise OSError(28, "No space left on device")
        taken, self._room = int(self._file.write(data[: self._room])), 0
        return taken

    def fileno(self) -> int:
        return int(self._file.fileno())


def _unavailable(*_: object) -> None:
    raise StoreUnavailable("Away.")

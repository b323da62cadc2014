"""The process that runs a batch may die at any point: no line is lost, repeated or charged twice."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app import create_app
from app.errors import StoreUnavailable
from tests.api.batching import BatchWorker, batch, both, call, created, failures, idle, line, results_file
from tests.api.batching import build_client as build_client
from tests.api.conftest import AppClient
from tests.api.test_jobs import open_reservations
from tests.support.disk import AlmostFullFile


def test_one_worker_runs_a_batch_and_another_goes_on_when_it_dies(build_client: Callable[..., AppClient]) -> None:
    client = build_client(more="batch: {window: 4}\n")
    batch_id = created(client, [line(i) for i in range(10)])
    first, second = BatchWorker(client), BatchWorker(client, name="w2")
    first.step(2)
    second.step(2)
    assert (len(first.runners), second.runners) == (1, [])
    first.run()
    first.step()
    first.die()
    second.work()
    output, errors = both(client, batch_id)
    assert ([row["custom_id"] for row in output], errors) == ([f"n{i}" for i in range(10)], [])
    rows = client.rows()
    assert sorted(row["request_id"] for row in rows) == sorted(row["response"]["request_id"] for row in output)
    assert len(rows) == 10
    idle(client)


def test_results_of_jobs_that_were_not_dropped_are_not_fetched_again(
    build_client: Callable[..., AppClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = build_client()
    batch_id = died_before_its_jobs_were_dropped(client, monkeypatch)
    second = BatchWorker(client, name="w2")
    second.work()
    assert len(both(client, batch_id)[0]) == len(client.rows()) == 3


def test_a_result_that_was_torn_is_fetched_again(
    build_client: Callable[..., AppClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = build_client()
    batch_id = died_before_its_jobs_were_dropped(client, monkeypatch)
    second = BatchWorker(client, name="w2")
    path = results_file(client)
    path.write_bytes(path.read_bytes()[:-20])
    second.work()
    output, errors = both(client, batch_id)
    assert ([row["custom_id"] for row in output], errors) == (["n0", "n1", "n2"], [])
    assert len(client.rows()) == 3


@pytest.mark.parametrize("step", ["admitted", "queued"])
def test_a_worker_killed_while_submitting_neither_loses_nor_repeats_a_line(
    build_client: Callable[..., AppClient], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    client = build_client(more="plans: {default: {requests_per_day: 100}}\n")
    batch_id = created(client, [line(i) for i in range(3)])
    first, second = BatchWorker(client), BatchWorker(client, name="w2")
    first.step()
    submit = client.services.queue.jobs.submit

    def killed(*args: Any, **more: Any) -> Any:
        if step == "queued":
            submit(*args, **more)
        raise _Killed

    with monkeypatch.context() as patch:
        patch.setattr(client.services.queue.jobs, "submit", killed)
        patch.setattr(client.services.admission, "cancel", lambda *_: None)  # the dead do not tidy up
        with pytest.raises(_Killed):
            first.step()
    first.die()
    assert len(open_reservations(client)) == 1
    client.services.redis.execute("ZADD", "penstock:workers", 1, client.services.heartbeat.worker_id)
    client.services.reaper.run_once()  # its worker has been silent for long
    second.work()
    output, errors = both(client, batch_id)
    assert ([row["custom_id"] for row in output], errors) == (["n0", "n1", "n2"], [])
    assert [row["status"] for row in client.rows()] == ["ok"] * 3
    [used] = client.keys("penstock:limit:dev:requests_per_day:*")
    assert client.services.redis.execute("GET", used) == b"3"
    idle(client)


def test_a_batch_is_cancelled_by_another_worker_than_the_one_that_fed_it(
    build_client: Callable[..., AppClient],
) -> None:
    client = build_client(more="batch: {window: 3}\n")
    batch_id = created(client, [line(i) for i in range(6)])
    first, second = BatchWorker(client), BatchWorker(client, name="w2")
    first.step(2)
    first.die()
    call(client, "POST", f"/v1/batches/{batch_id}/cancel")
    second.step(3)
    assert batch(client, batch_id)["status"] == "cancelled"
    assert [row["status"] for row in client.rows()] == ["aborted"] * 3
    idle(client)


def test_jobs_that_redis_has_lost_are_submitted_again(build_client: Callable[..., AppClient]) -> None:
    client = build_client()
    batch_id = created(client, [line(i) for i in range(3)])
    worker = BatchWorker(client)
    worker.step(2)
    client.services.redis.execute("FLUSHDB")
    worker.work()
    assert [row["custom_id"] for row in both(client, batch_id)[0]] == ["n0", "n1", "n2"]


def test_a_batch_with_lost_results_is_not_rerun_and_fails_when_told_to(
    build_client: Callable[..., AppClient],
) -> None:
    """As after the restore of an older database: the batch ended long ago."""
    client = build_client()
    batch_id = created(client, [line(i) for i in range(3)])
    worker = BatchWorker(client)
    worker.work()
    with client.services.database.write() as connection:
        connection.exec_driver_sql("UPDATE batches SET status = 'in_progress'")
    worker.work()
    assert batch(client, batch_id)["status"] == "in_progress"
    runner = create_app(services=client.services).test_cli_runner()
    assert runner.invoke(args=["batches", "fail", batch_id]).exit_code == 0
    found = batch(client, batch_id)
    assert (found["status"], found["errors"]["data"][0]["code"]) == ("failed", "results_lost")
    assert len(client.rows()) == 3
    assert runner.invoke(args=["batches", "fail", batch_id]).exit_code == 1


def test_a_worker_that_does_not_see_a_batchs_files_leaves_it_alone(
    build_client: Callable[..., AppClient], tmp_path: Path
) -> None:
    client = build_client(more="batch: {window: 3}\n")
    batch_id = created(client, [line(i) for i in range(6)])
    healthy = BatchWorker(client)
    healthy.step(2)
    healthy.run()
    healthy.step()
    before = results_file(client).read_bytes()
    assert before.count(b"\n") == 3
    stranger = BatchWorker(client, name="w2", disk=tmp_path / "b")
    stranger.step(2)
    stranger.supervisor.remove_expired()
    healthy.step()
    assert batch(client, batch_id)["status"] == "in_progress"
    assert results_file(client).read_bytes().startswith(before)
    healthy.work()
    assert [row["custom_id"] for row in both(client, batch_id)[0]] == [f"n{i}" for i in range(6)]


@pytest.mark.parametrize("missing", ["files", "batches"])
def test_a_batch_whose_files_come_back_goes_on(build_client: Callable[..., AppClient], missing: str) -> None:
    """A disk that is mounted late."""
    client = build_client(more="batch: {window: 3}\n")
    batch_id = created(client, [line(i) for i in range(6)])
    first = BatchWorker(client)
    first.step(2)
    first.die()
    directory = client.services.settings.data_dir / missing
    directory.rename(directory.with_name("away"))
    second = BatchWorker(client, name="w2")
    second.step(3)
    assert (second.runners, batch(client, batch_id)["status"]) == ([], "in_progress")
    shutil.rmtree(directory, ignore_errors=True)
    directory.with_name("away").rename(directory)
    second.work()
    assert len(both(client, batch_id)[0]) == len(client.rows()) == 6


def test_paid_results_stay_when_another_worker_fails_the_batch(build_client: Callable[..., AppClient]) -> None:
    client = build_client(more="batch: {window: 3}\n")
    batch_id = created(client, [line(i) for i in range(6)])
    worker = BatchWorker(client)
    worker.step(2)
    worker.run()
    worker.step()
    before = results_file(client).read_bytes()
    client.services.batches.update(batch_id, ("in_progress",), status="failed", failed_at=1.0)
    worker.step()
    worker.supervisor.remove_expired()
    assert worker.runners == []
    assert results_file(client).read_bytes() == before


def test_output_files_stay_when_the_databases_answer_to_the_commit_is_lost(
    build_client: Callable[..., AppClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = build_client()
    batch_id = created(client, [line(i) for i in range(3)])
    worker = BatchWorker(client)
    worker.step(2)
    worker.run()
    finish = client.services.batches.finish

    def unanswered(*args: Any, **more: Any) -> Any:
        finish(*args, **more)
        raise StoreUnavailable("Away.")

    with monkeypatch.context() as patch:
        patch.setattr(client.services.batches, "finish", unanswered)
        with pytest.raises(StoreUnavailable):
            worker.step()
    worker.work()
    assert [row["custom_id"] for row in both(client, batch_id)[0]] == ["n0", "n1", "n2"]
    idle(client)


def test_a_batch_that_was_begun_on_another_disk_is_not_begun_again(build_client: Callable[..., AppClient]) -> None:
    client = build_client()
    batch_id = created(client, [line(i) for i in range(3)])
    worker = BatchWorker(client)
    worker.runners += worker.supervisor.claim()
    client.services.batches.update(batch_id, ("validating",), status="in_progress", in_progress_at=1.0, total=3)
    worker.step(3)
    assert (worker.runners, client.services.queue.depth().waiting) == ([], 0)
    assert batch(client, batch_id)["status"] == "in_progress"


def test_a_result_that_nobody_collected_is_that_lines_error(build_client: Callable[..., AppClient]) -> None:
    client = build_client()
    batch_id = created(client, [line(i) for i in range(2)])
    worker = BatchWorker(client)
    worker.step(2)
    worker.run()
    client.services.redis.execute("DEL", f"penstock:job:{batch_id}-1")
    worker.work()
    output, errors = both(client, batch_id)
    assert [row["custom_id"] for row in output] == ["n1"]
    assert failures(errors) == {"n0": "result_lost"}


def test_a_disk_that_is_full_for_a_while_costs_no_result(
    build_client: Callable[..., AppClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = build_client()
    batch_id = created(client, [line(i) for i in range(3)])
    worker = BatchWorker(client)
    worker.step(2)
    worker.run()
    results = worker.runners[0]._results
    [part] = [results._file]
    with monkeypatch.context() as patch:
        patch.setattr(results, "_file", AlmostFullFile(part))
        with pytest.raises(OSError, match="No space left"):
            worker.step()
    worker.work()
    assert [row["custom_id"] for row in both(client, batch_id)[0]] == ["n0", "n1", "n2"]
    assert len(client.rows()) == 3


def died_before_its_jobs_were_dropped(client: AppClient, monkeypatch: pytest.MonkeyPatch) -> str:
    """A batch of three whose results are kept; the worker that fed it is dead. Returns its id."""
    batch_id = created(client, [line(i) for i in range(3)])
    first = BatchWorker(client)
    first.step(2)
    first.run()
    with monkeypatch.context() as patch:
        patch.setattr(client.services.queue.jobs, "forget", _unavailable)
        with pytest.raises(StoreUnavailable):
            first.step()
    first.die()
    return batch_id


class _Killed(BaseException):
    """An exception that no code catches."""


def _unavailable(*_: object) -> None:
    raise StoreUnavailable("Away.")

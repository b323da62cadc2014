"""`flask jobs`: what an operator sees of real jobs on a real Redis, and cancels on their owners' behalf."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import Result

from app.stop_signal import StopSignal
from app.store.job_list import STATES, JobList
from app.store.redis.client import Redis
from app.store.sql.tables import batches
from tests.api.conftest import Edge
from tests.api.test_jobs import ANSWERED, DEMO, Worker, ask, job_of, open_reservations, started, submit


@pytest.fixture
def made(edge: Callable[[str], Edge]) -> Callable[..., Edge]:
    """The application with one demo model `m`."""

    def build(script: str = ANSWERED, more: str = "") -> Edge:
        return edge(DEMO.format(script=script) + more)

    return build


def flask(edge: Edge, *args: str) -> Result:
    result: Result = edge._client.application.test_cli_runner().invoke(args=["jobs", *args])
    return result


def listed(edge: Edge, *options: str) -> list[dict[str, Any]]:
    result = flask(edge, "list", "--format", "json", *options)
    assert result.exit_code == 0, result.output
    found: list[dict[str, Any]] = json.loads(result.stdout)
    return found


def failed(result: Result) -> str:
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


def one_of_each_state(edge: Edge) -> dict[str, str]:
    """A job in each state, the oldest first: their ids."""
    done, cancelled = job_of(submit(edge)), job_of(submit(edge))
    assert ask(edge, cancelled, method="DELETE").status_code == 200
    Worker(edge).run()
    failing, running = job_of(submit(edge)), job_of(submit(edge))
    jobs = edge.services.queue.jobs
    claimed = jobs.claim("w", 60)
    assert claimed is not None
    jobs.finish(
        claimed, "failed", {"error": '{"code":"MODEL_ERROR","message":"bad\\u001b[31m"}', "http_status": 502}, keep_s=60
    )
    assert jobs.claim("w", 60) is not None
    return {
        "completed": done,
        "cancelled": cancelled,
        "failed": failing,
        "processing": running,
        "queued": job_of(submit(edge)),
    }


def test_jobs_of_all_keys_are_listed_oldest_first_with_their_places(made: Callable[..., Edge]) -> None:
    edge = made()
    key, info = edge.services.keys.create("other")
    mine = [job_of(submit(edge)) for _ in range(2)]
    other = job_of(submit(edge, key=key))
    rows = listed(edge)
    assert [(row["id"], row["key_id"], row["position"]) for row in rows] == [
        (mine[0], "dev", 2),
        (mine[1], "dev", 3),
        (other, info.key_id, 2),
    ]
    assert {(row["state"], row["model"], row["attempts"]) for row in rows} == {("queued", "m", 0)}
    assert all(0 <= row["age_s"] < 60 for row in rows)


def test_a_place_in_the_list_is_the_one_that_the_owner_is_told(made: Callable[..., Edge]) -> None:
    edge = made()
    keys = [edge.services.keys.create(f"k{number}")[0] for number in range(3)]
    owners = {job_of(submit(edge, key=key)): key for number, key in enumerate(keys) for _ in range(2 * number + 1)}
    told = {job_id: ask(edge, job_id, key=key).json["position"] for job_id, key in owners.items()}
    assert {row["id"]: row["position"] for row in listed(edge)} == told
    assert len(told) == 9


def test_a_job_that_asked_for_auto_is_listed_with_the_picked_model(made: Callable[..., Edge]) -> None:
    edge = made()
    job_of(submit(edge, model="auto"))
    assert [row["model"] for row in listed(edge)] == ["m"]


def test_the_list_can_be_of_some_states_only(made: Callable[..., Edge]) -> None:
    edge = made()
    ids = one_of_each_state(edge)
    assert [(row["id"], row["state"]) for row in listed(edge)] == [(job_id, state) for state, job_id in ids.items()]
    for state in STATES:
        assert [row["id"] for row in listed(edge, "--state", state)] == [ids[state]]
    both = listed(edge, "--state", "queued", "--state", "failed")
    assert [row["id"] for row in both] == [ids["failed"], ids["queued"]]
    assert [row["position"] for row in listed(edge)] == [None, None, None, None, 1]
    assert {row["model"] for row in listed(edge)} == {"m"}, "also of those whose request is gone"


def test_every_job_is_listed_once_among_many_keys_of_redis(made: Callable[..., Edge], redis_url: str) -> None:
    edge = made(more="queue: {max_jobs: 1000}\n")
    redis = edge.services.redis
    redis.pipeline([("SET", f"penstock:cache:{number}", "x") for number in range(3000)])
    ids = {job_of(submit(edge)) for _ in range(450)}  # more than two batches
    found = [row["id"] for row in listed(edge)]
    assert set(found) == ids
    assert len(found) == 450
    assert len({row["position"] for row in listed(edge, "--state", "queued")}) == 450


def test_no_step_of_the_list_asks_redis_for_more_than_a_bounded_part(made: Callable[..., Edge]) -> None:
    edge = made()

    class Counting(Redis):
        def execute(self, *args: Any) -> Any:
            if args[0] == "SCAN":
                assert args[-2:] == ("COUNT", 1000)
            return edge.services.redis.execute(*args)

        def pipeline(self, commands: Any) -> list[Any]:
            assert len(commands) <= 400
            return edge.services.redis.pipeline(commands)

    ids = {job_of(submit(edge)) for _ in range(250)}
    assert {job.id for job in JobList(redis=Counting("redis://unused")).all()} == ids


def test_a_job_that_waits_for_its_next_attempt_has_no_place_yet(made: Callable[..., Edge]) -> None:
    edge = made(script="fail_status: 503", more="queue: {retry_backoff_s: 60}\n")
    job_id = job_of(submit(edge))
    Worker(edge).run()
    [row] = listed(edge, "--state", "queued")
    assert (row["id"], row["attempts"], row["position"]) == (job_id, 1, None)
    shown = json.loads(flask(edge, "show", job_id, "--format", "json").stdout)
    assert (shown["error_code"], shown["finished"]) == ("MODEL_UNAVAILABLE", None)


def test_the_list_is_a_table_for_people_and_csv_for_spreadsheets(made: Callable[..., Edge]) -> None:
    edge = made()
    empty = flask(edge, "list").stdout
    assert empty.split() == ["id", "state", "key_id", "model", "age_s", "attempts", "position"]
    job_id = job_of(submit(edge))
    table = flask(edge, "list").stdout.splitlines()
    assert len({len(line) for line in table}) == 1
    assert table[1].split()[:4] == [job_id, "queued", "dev", "m"]
    [row] = csv.DictReader(io.StringIO(flask(edge, "list", "--format", "csv").stdout))
    assert (row["id"], row["position"]) == (job_id, "1")


def test_a_job_is_shown_with_what_went_wrong_and_without_what_was_said(made: Callable[..., Edge]) -> None:
    edge = made(script=f"reply: the-answer, {ANSWERED}")
    ids = one_of_each_state(edge)
    facts = dict(line.split(None, 1) for line in flask(edge, "show", ids["failed"]).stdout.splitlines() if " " in line)
    assert (facts["state"], facts["http_status"], facts["error_code"]) == ("failed", "502", "MODEL_ERROR")
    assert facts["error"] == "bad?[31m", "nothing that steers a terminal"
    secret = job_of(submit(edge, "the-prompt"))
    for job_id in (*ids.values(), secret):
        shown = flask(edge, "show", job_id).stdout + flask(edge, "show", job_id, "--format", "json").stdout
        assert job_id in shown
        assert "the-prompt" not in shown
        assert "the-answer" not in shown
    running = json.loads(flask(edge, "show", ids["processing"], "--format", "json").stdout)
    assert (running["worker"], running["attempts"], running["finished"]) == ("w", 1, None)


@pytest.mark.parametrize("command", ["show", "cancel"])
@pytest.mark.parametrize("job_id", ["req_unknown", "*", "ü", "\udcff", "\x1b[31m"])
def test_an_unknown_job_is_one_line(made: Callable[..., Edge], command: str, job_id: str) -> None:
    line = failed(flask(made(), command, job_id))
    assert "There is no job" in line
    assert line[:-1].isprintable()


def test_a_waiting_job_is_cancelled_as_its_owner_would(made: Callable[..., Edge]) -> None:
    edge = made(more="plans: {default: {tokens_per_day: 100000}}\n")
    key, info = edge.services.keys.create("other")
    by_owner, by_operator = job_of(submit(edge, key=key)), job_of(submit(edge, key=key))
    assert ask(edge, by_owner, method="DELETE", key=key).status_code == 200
    result = flask(edge, "cancel", by_operator)
    assert (result.exit_code, result.stdout) == (0, f"Cancelled {by_operator} of {info.key_id}.\n")
    assert ask(edge, by_operator, key=key).json["status"] == "cancelled"
    Worker(edge).run()
    assert edge.asked == []
    first, second = edge.rows()
    its_own = ("call_id", "job_id", "request_id", "ts")
    assert {k: v for k, v in first.items() if k not in its_own} == {k: v for k, v in second.items() if k not in its_own}
    assert (second["call_id"], second["key_id"], second["status"], second["cost_nanousd"]) == (
        by_operator,
        info.key_id,
        "aborted",
        0,
    )
    [tokens] = edge.keys(f"penstock:limit:{info.key_id}:tokens_per_day:*")
    assert edge.services.redis.execute("GET", tokens) == b"0"
    assert open_reservations(edge) == []


def test_a_running_job_is_cancelled_with_its_upstream_call(made: Callable[..., Edge]) -> None:
    edge = made(script="delay_s: 30")
    worker = Worker(edge)
    job_id = job_of(submit(edge))
    running = started(edge, worker)
    result = flask(edge, "cancel", job_id)
    assert (result.exit_code, result.stdout) == (
        0,
        f"{job_id} of dev is running; its worker has been told to end it.\n",
    )
    worker.runner.beat()
    running.join(5)
    assert not running.is_alive()
    assert [row["state"] for row in listed(edge)] == ["cancelled"]
    assert [(row["status"], row["http_status"]) for row in edge.rows()] == [("aborted", 499)]


def test_what_has_ended_cannot_be_cancelled(made: Callable[..., Edge]) -> None:
    edge = made()
    job_id = job_of(submit(edge))
    Worker(edge).run()
    assert "it is completed" in failed(flask(edge, "cancel", job_id))
    assert len(edge.rows()) == 1


@pytest.fixture
def _signals_restored() -> Iterator[None]:
    before = [(number, signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT)]
    yield
    for number, handler in before:
        signal.signal(number, handler)


@pytest.mark.usefixtures("_signals_restored")
def test_watching_shows_how_full_the_queue_is_until_ctrl_c(
    made: Callable[..., Edge], monkeypatch: pytest.MonkeyPatch
) -> None:
    edge = made()
    waits = 0

    def wait(stop: StopSignal, _timeout: float) -> bool:
        nonlocal waits
        waits += 1
        if waits == 1:
            submit(edge), submit(edge)
            edge.services.queue.jobs.beat("w", 50, [])
            assert edge.services.queue.jobs.claim("w", 60)
        else:
            os.kill(os.getpid(), signal.SIGINT)
        return stop.is_set()

    monkeypatch.setattr(StopSignal, "wait", wait)
    result = flask(edge, "watch")
    assert result.exit_code == 0
    first, second = (line for line in result.stdout.splitlines() if "waiting " in line)
    assert first.endswith("Z  waiting 0 · running 0 of 0 (0 workers) · nothing waits")
    assert "Z  waiting 1 · running 1 of 50 (1 worker) · oldest waits 0:0" in second


BATCH = "batch_019364ce2a50aabbccddeeff"


@pytest.fixture
def batch(made: Callable[..., Edge]) -> Callable[..., Edge]:
    """The application with a batch in its database; called again, changes it."""
    edge: list[Edge] = []

    def change(**values: Any) -> Edge:
        if not edge:
            edge.append(made())
            needed = {
                "batch_id": BATCH,
                "key_id": "dev",
                "key_hash": "h",
                "endpoint": "/v1/chat/completions",
                "input_file_id": "file-1",
                "output_ttl_s": 3600,
                "created_at": 1,
                "expires_at": 2,
            }
            statement: Any = batches.insert().values(**needed, **values)
        else:
            statement = batches.update().values(**values)
        with edge[0].services.database.write() as connection:
            connection.execute(statement)
        return edge[0]

    return change


def steps(monkeypatch: pytest.MonkeyPatch, *each: Callable[[], object]) -> None:
    """What happens while the command waits from one look to the next."""
    left = list(each)

    def wait(stop: StopSignal, _timeout: float) -> bool:
        if not stop.is_set():
            left.pop(0)()
        return stop.is_set()

    monkeypatch.setattr(StopSignal, "wait", wait)


@pytest.mark.usefixtures("_signals_restored")
@pytest.mark.parametrize(("status", "exit_code"), [("completed", 0), ("failed", 1), ("expired", 1), ("cancelled", 1)])
def test_watching_a_batch_shows_how_far_it_is_until_it_ends(
    batch: Callable[..., Edge], monkeypatch: pytest.MonkeyPatch, status: str, exit_code: int
) -> None:
    edge = batch(status="validating", total=0, completed=0, failed=0)
    steps(
        monkeypatch,
        lambda: batch(status="in_progress", total=500, completed=249, failed=1),
        lambda: batch(status=status, completed=499),
    )
    result = flask(edge, "watch", BATCH)
    assert result.exit_code == exit_code
    first, second, third = result.stdout.splitlines()
    assert "validating [" in first
    assert f"in_progress [{'#' * 12}{'-' * 12}] 250/500 · 1 failed" in second
    assert f"{status} [{'#' * 24}] 500/500 · 1 failed" in third


@pytest.mark.usefixtures("_signals_restored")
def test_ctrl_c_ends_the_watching_and_not_the_batch(
    batch: Callable[..., Edge], monkeypatch: pytest.MonkeyPatch
) -> None:
    edge = batch(status="in_progress", total=5, completed=0, failed=0)
    steps(monkeypatch, lambda: os.kill(os.getpid(), signal.SIGINT))
    assert flask(edge, "watch", BATCH).exit_code == 130
    with edge.services.database.read() as connection:
        assert connection.execute(sa.select(batches.c.status)).scalar() == "in_progress"


@pytest.mark.usefixtures("_signals_restored")
@pytest.mark.parametrize("batch_id", ["batch_unknown", "%", "ü", "\udcff", "\x1b[31m"])
def test_an_unknown_batch_is_one_line(made: Callable[..., Edge], batch_id: str) -> None:
    line = failed(flask(made(), "watch", batch_id))
    assert "There is no batch" in line
    assert line[:-1].isprintable()

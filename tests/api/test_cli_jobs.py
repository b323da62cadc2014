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
from tests.api.conftest import AppClient
from tests.api.test_jobs import ANSWERED, DEMO, JobWorker, ask, job_of, open_reservations, started, submit


@pytest.fixture
def build_client(client_with: Callable[[str], AppClient]) -> Callable[..., AppClient]:
    """The application with one demo model `m`."""

    def build(script: str = ANSWERED, more: str = "") -> AppClient:
        return client_with(DEMO.format(script=script) + more)

    return build


def flask(client: AppClient, *args: str) -> Result:
    result: Result = client._client.application.test_cli_runner().invoke(args=["jobs", *args])
    return result


def listed(client: AppClient, *options: str) -> list[dict[str, Any]]:
    result = flask(client, "list", "--format", "json", *options)
    assert result.exit_code == 0, result.output
    found: list[dict[str, Any]] = json.loads(result.stdout)
    return found


def failed(result: Result) -> str:
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


def one_of_each_state(client: AppClient) -> dict[str, str]:
    """A job in each state, the oldest first: their ids."""
    done, cancelled = job_of(submit(client)), job_of(submit(client))
    assert ask(client, cancelled, method="DELETE").status_code == 200
    JobWorker(client).run()
    failing, running = job_of(submit(client)), job_of(submit(client))
    jobs = client.services.queue.jobs
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
        "queued": job_of(submit(client)),
    }


def test_jobs_of_all_keys_are_listed_oldest_first_with_their_places(build_client: Callable[..., AppClient]) -> None:
    client = build_client()
    key, info = client.services.keys.create("other")
    mine = [job_of(submit(client)) for _ in range(2)]
    other = job_of(submit(client, key=key))
    rows = listed(client)
    assert [(row["id"], row["key_id"], row["position"]) for row in rows] == [
        (mine[0], "dev", 2),
        (mine[1], "dev", 3),
        (other, info.key_id, 2),
    ]
    assert {(row["state"], row["model"], row["attempts"]) for row in rows} == {("queued", "m", 0)}
    assert all(0 <= row["age_s"] < 60 for row in rows)


def test_a_place_in_the_list_is_the_one_that_the_owner_is_told(build_client: Callable[..., AppClient]) -> None:
    client = build_client()
    keys = [client.services.keys.create(f"k{number}")[0] for number in range(3)]
    owners = {job_of(submit(client, key=key)): key for number, key in enumerate(keys) for _ in range(2 * number + 1)}
    told = {job_id: ask(client, job_id, key=key).json["position"] for job_id, key in owners.items()}
    assert {row["id"]: row["position"] for row in listed(client)} == told
    assert len(told) == 9


def test_a_job_that_asked_for_auto_is_listed_with_the_picked_model(build_client: Callable[..., AppClient]) -> None:
    client = build_client()
    job_of(submit(client, model="auto"))
    assert [row["model"] for row in listed(client)] == ["m"]


def test_the_list_can_be_of_some_states_only(build_client: Callable[..., AppClient]) -> None:
    client = build_client()
    ids = one_of_each_state(client)
    assert [(row["id"], row["state"]) for row in listed(client)] == [(job_id, state) for state, job_id in ids.items()]
    for state in STATES:
        assert [row["id"] for row in listed(client, "--state", state)] == [ids[state]]
    both = listed(client, "--state", "queued", "--state", "failed")
    assert [row["id"] for row in both] == [ids["failed"], ids["queued"]]
    assert [row["position"] for row in listed(client)] == [None, None, None, None, 1]
    assert {row["model"] for row in listed(client)} == {"m"}, "also of those whose request is gone"


def test_every_job_is_listed_once_among_many_keys_of_redis(
    build_client: Callable[..., AppClient], redis_url: str
) -> None:
    client = build_client(more="queue: {max_jobs: 1000}\n")
    redis = client.services.redis
    redis.pipeline([("SET", f"penstock:cache:{number}", "x") for number in range(3000)])
    ids = {job_of(submit(client)) for _ in range(450)}  # more than two batches
    found = [row["id"] for row in listed(client)]
    assert set(found) == ids
    assert len(found) == 450
    assert len({row["position"] for row in listed(client, "--state", "queued")}) == 450


def test_no_step_of_the_list_asks_redis_for_more_than_a_bounded_part(build_client: Callable[..., AppClient]) -> None:
    client = build_client()

    class Counting(Redis):
        def execute(self, *args: Any) -> Any:
            if args[0] == "SCAN":
                assert args[-2:] == ("COUNT", 1000)
            return client.services.redis.execute(*args)

        def pipeline(self, commands: Any) -> list[Any]:
            assert len(commands) <= 400
            return client.services.redis.pipeline(commands)

    ids = {job_of(submit(client)) for _ in range(250)}
    assert {job.id for job in JobList(redis=Counting("redis://unused")).all()} == ids


def test_a_job_that_waits_for_its_next_attempt_has_no_place_yet(build_client: Callable[..., AppClient]) -> None:
    client = build_client(script="fail_status: 503", more="queue: {retry_backoff_s: 60}\n")
    job_id = job_of(submit(client))
    JobWorker(client).run()
    [row] = listed(client, "--state", "queued")
    assert (row["id"], row["attempts"], row["position"]) == (job_id, 1, None)
    shown = json.loads(flask(client, "show", job_id, "--format", "json").stdout)
    assert (shown["error_code"], shown["finished"]) == ("MODEL_UNAVAILABLE", None)


def test_the_list_is_a_table_for_people_and_csv_for_spreadsheets(build_client: Callable[..., AppClient]) -> None:
    client = build_client()
    empty = flask(client, "list").stdout
    assert empty.split() == ["id", "state", "key_id", "model", "age_s", "attempts", "position"]
    job_id = job_of(submit(client))
    table = flask(client, "list").stdout.splitlines()
    assert len({len(line) for line in table}) == 1
    assert table[1].split()[:4] == [job_id, "queued", "dev", "m"]
    [row] = csv.DictReader(io.StringIO(flask(client, "list", "--format", "csv").stdout))
    assert (row["id"], row["position"]) == (job_id, "1")


def test_a_job_is_shown_with_what_went_wrong_and_without_what_was_said(build_client: Callable[..., AppClient]) -> None:
    client = build_client(script=f"reply: the-answer, {ANSWERED}")
    ids = one_of_each_state(client)
    facts = dict(
        line.split(None, 1) for line in flask(client, "show", ids["failed"]).stdout.splitlines() if " " in line
    )
    assert (facts["state"], facts["http_status"], facts["error_code"]) == ("failed", "502", "MODEL_ERROR")
    assert facts["error"] == "bad?[31m", "nothing that steers a terminal"
    secret = job_of(submit(client, "the-prompt"))
    for job_id in (*ids.values(), secret):
        shown = flask(client, "show", job_id).stdout + flask(client, "show", job_id, "--format", "json").stdout
        assert job_id in shown
        assert "the-prompt" not in shown
        assert "the-answer" not in shown
    running = json.loads(flask(client, "show", ids["processing"], "--format", "json").stdout)
    assert (running["worker"], running["attempts"], running["finished"]) == ("w", 1, None)


@pytest.mark.parametrize("command", ["show", "cancel"])
@pytest.mark.parametrize("job_id", ["req_unknown", "*", "ü", "\udcff", "\x1b[31m"])
def test_an_unknown_job_is_one_line(build_client: Callable[..., AppClient], command: str, job_id: str) -> None:
    line = failed(flask(build_client(), command, job_id))
    assert "There is no job" in line
    assert line[:-1].isprintable()


def test_a_waiting_job_is_cancelled_as_its_owner_would(build_client: Callable[..., AppClient]) -> None:
    client = build_client(more="plans: {default: {tokens_per_day: 100000}}\n")
    key, info = client.services.keys.create("other")
    by_owner, by_operator = job_of(submit(client, key=key)), job_of(submit(client, key=key))
    assert ask(client, by_owner, method="DELETE", key=key).status_code == 200
    result = flask(client, "cancel", by_operator)
    assert (result.exit_code, result.stdout) == (0, f"Cancelled {by_operator} of {info.key_id}.\n")
    assert ask(client, by_operator, key=key).json["status"] == "cancelled"
    JobWorker(client).run()
    assert client.asked == []
    first, second = client.rows()
    its_own = ("call_id", "job_id", "request_id", "ts")
    assert {k: v for k, v in first.items() if k not in its_own} == {k: v for k, v in second.items() if k not in its_own}
    assert (second["call_id"], second["key_id"], second["status"], second["cost_nanousd"]) == (
        by_operator,
        info.key_id,
        "aborted",
        0,
    )
    [tokens] = client.keys(f"penstock:limit:{info.key_id}:tokens_per_day:*")
    assert client.services.redis.execute("GET", tokens) == b"0"
    assert open_reservations(client) == []


def test_a_running_job_is_cancelled_with_its_upstream_call(build_client: Callable[..., AppClient]) -> None:
    client = build_client(script="delay_s: 30")
    worker = JobWorker(client)
    job_id = job_of(submit(client))
    running = started(client, worker)
    result = flask(client, "cancel", job_id)
    assert (result.exit_code, result.stdout) == (
        0,
        f"{job_id} of dev is running; its worker has been told to end it.\n",
    )
    worker.runner.beat()
    running.join(5)
    assert not running.is_alive()
    assert [row["state"] for row in listed(client)] == ["cancelled"]
    assert [(row["status"], row["http_status"]) for row in client.rows()] == [("aborted", 499)]


def test_what_has_ended_cannot_be_cancelled(build_client: Callable[..., AppClient]) -> None:
    client = build_client()
    job_id = job_of(submit(client))
    JobWorker(client).run()
    assert "it is completed" in failed(flask(client, "cancel", job_id))
    assert len(client.rows()) == 1


@pytest.fixture
def _signals_restored() -> Iterator[None]:
    before = [(number, signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT)]
    yield
    for number, handler in before:
        signal.signal(number, handler)


@pytest.mark.usefixtures("_signals_restored")
def test_watching_shows_how_full_the_queue_is_until_ctrl_c(
    build_client: Callable[..., AppClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = build_client()
    waits = 0

    def wait(stop: StopSignal, _timeout: float) -> bool:
        nonlocal waits
        waits += 1
        if waits == 1:
            submit(client), submit(client)
            client.services.queue.jobs.beat("w", 50, [])
            assert client.services.queue.jobs.claim("w", 60)
        else:
            os.kill(os.getpid(), signal.SIGINT)
        return stop.is_set()

    monkeypatch.setattr(StopSignal, "wait", wait)
    result = flask(client, "watch")
    assert result.exit_code == 0
    first, second = (line for line in result.stdout.splitlines() if "waiting " in line)
    assert first.endswith("Z  waiting 0 · running 0 of 0 (0 workers) · nothing waits")
    assert "Z  waiting 1 · running 1 of 50 (1 worker) · oldest waits 0:0" in second


BATCH = "batch_019364ce2a50aabbccddeeff"


@pytest.fixture
def batch(build_client: Callable[..., AppClient]) -> Callable[..., AppClient]:
    """The application with a batch in its database; called again, changes it."""
    clients: list[AppClient] = []

    def change(**values: Any) -> AppClient:
        if not clients:
            clients.append(build_client())
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
        with clients[0].services.database.write() as connection:
            connection.execute(statement)
        return clients[0]

    return change


def steps(monkeypatch: pytest.MonkeyPatch, *each: Callable[[], object]) -> None:
    """Runs between two looks of the command."""
    left = list(each)

    def wait(stop: StopSignal, _timeout: float) -> bool:
        if not stop.is_set():
            left.pop(0)()
        return stop.is_set()

    monkeypatch.setattr(StopSignal, "wait", wait)


@pytest.mark.usefixtures("_signals_restored")
@pytest.mark.parametrize(("status", "exit_code"), [("completed", 0), ("failed", 1), ("expired", 1), ("cancelled", 1)])
def test_watching_a_batch_shows_how_far_it_is_until_it_ends(
    batch: Callable[..., AppClient], monkeypatch: pytest.MonkeyPatch, status: str, exit_code: int
) -> None:
    client = batch(status="validating", total=0, completed=0, failed=0)
    steps(
        monkeypatch,
        lambda: batch(status="in_progress", total=500, completed=249, failed=1),
        lambda: batch(status=status, completed=499),
    )
    result = flask(client, "watch", BATCH)
    assert result.exit_code == exit_code
    first, second, third = result.stdout.splitlines()
    assert "validating [" in first
    assert f"in_progress [{'#' * 12}{'-' * 12}] 250/500 · 1 failed" in second
    assert f"{status} [{'#' * 24}] 500/500 · 1 failed" in third


@pytest.mark.usefixtures("_signals_restored")
def test_ctrl_c_ends_the_watching_and_not_the_batch(
    batch: Callable[..., AppClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = batch(status="in_progress", total=5, completed=0, failed=0)
    steps(monkeypatch, lambda: os.kill(os.getpid(), signal.SIGINT))
    assert flask(client, "watch", BATCH).exit_code == 130
    with client.services.database.read() as connection:
        assert connection.execute(sa.select(batches.c.status)).scalar() == "in_progress"


@pytest.mark.usefixtures("_signals_restored")
@pytest.mark.parametrize("batch_id", ["batch_unknown", "%", "ü", "\udcff", "\x1b[31m"])
def test_an_unknown_batch_is_one_line(build_client: Callable[..., AppClient], batch_id: str) -> None:
    line = failed(flask(build_client(), "watch", batch_id))
    assert "There is no batch" in line
    assert line[:-1].isprintable()

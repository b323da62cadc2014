"""The ledger process's loop: its chores, its back-off, its end; against a real Redis and a real SQLite file."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from app.gateway.reaper import Reaper
from app.ledger_process import LedgerProcess
from app.stop_signal import StopSignal
from app.store.keys import Keys
from app.store.ledger import Ledger
from app.store.outbox import Outbox
from app.store.redis.client import Redis
from app.store.redis.keys import OUTBOX
from app.store.sql.database import Database
from tests.support.rows import send, stored


def clock(step_s: float = 1.0) -> Callable[[], float]:
    return itertools.count(0, step_s).__next__


class ScriptedStop(StopSignal):
    """A stop flag that calls `turn` with the number of each look at it, and stops when that returns True."""

    def __init__(self, turn: Callable[[int], bool]) -> None:
        super().__init__()
        self._turn = turn
        self._turns = itertools.count()
        self.waits: list[float] = []
        self.deadline = time.monotonic() + 20

    def is_set(self) -> bool:
        assert time.monotonic() < self.deadline, "the loop does not end"
        return self._turn(next(self._turns))

    def wait(self, timeout_s: float) -> bool:
        self.waits.append(timeout_s)
        return False


class FakeReaper(Reaper):
    """Has nothing to reap; notes that it was asked, and may fail."""

    def __init__(self, done: list[str] | None = None, *, error: Exception | None = None, failures: int = 0) -> None:
        self._done = [] if done is None else done
        self._error, self._failures = error, failures

    def run_once(self) -> int:
        self._done.append("reap")
        if self._error is not None and len(self._done) <= self._failures:
            raise self._error
        return 0


class FakeKeys(Keys):
    """Has no revoked key to tell of; notes that it was asked."""

    def __init__(self, done: list[str] | None = None) -> None:
        self._done = [] if done is None else done

    def sync_mirror(self, since: float | None = None) -> int:
        self._done.append("sync")
        return 0


def process(
    redis: Redis,
    database: Database,
    *,
    reaper: Reaper | None = None,
    keys: Keys | None = None,
    monotonic: Callable[[], float] = time.monotonic,
) -> LedgerProcess:
    return LedgerProcess(
        outbox=Outbox(redis=redis, ledger=Ledger(database=database)),
        reaper=reaper or FakeReaper(),
        keys=keys or FakeKeys(),
        monotonic=monotonic,
    )


def test_the_loop_drains_waits_for_rows_and_does_chores_every_second(
    redis: Redis, database: Database, redis_server: Any
) -> None:
    done: list[str] = []

    def turn(number: int) -> bool:
        send(redis, f"row-{number}")
        return number == 6

    stop = ScriptedStop(turn)
    # The clock moves each time the loop looks at it: by half a second in a turn.
    process(redis, database, reaper=FakeReaper(done), keys=FakeKeys(done), monotonic=clock(0.25)).run(stop)
    assert stored(database) == [f"row-{number}" for number in range(7)]
    assert stop.waits == [0.1] * 6
    assert done == ["reap", "sync"] * 3


def test_what_arrives_while_the_process_is_told_to_stop_is_still_drained(redis: Redis, database: Database) -> None:
    def turn(number: int) -> bool:
        send(redis, *(f"row-{i:04}" for i in range(501)))
        return True

    process(redis, database, monotonic=clock()).run(ScriptedStop(turn))
    assert len(stored(database)) == 501
    assert redis.execute("XLEN", OUTBOX) == 0


def test_the_loop_ends_in_peace_when_redis_is_away(database: Database, dead_redis: Redis) -> None:
    with capture_logs() as logs:
        process(dead_redis, database).run(ScriptedStop(lambda number: True))
    assert [line["event"] for line in logs] == ["ledger_started", "outbox_not_drained", "ledger_stopped"]


def test_a_part_that_fails_is_tried_ever_less_often_and_others_go_on(redis: Redis, database: Database) -> None:
    def turn(number: int) -> bool:
        send(redis, f"row-{number:03}")
        return number == 40

    reaper = FakeReaper(error=ValueError("a bug"), failures=8)
    with capture_logs() as logs:
        process(redis, database, reaper=reaper, monotonic=clock(0.5)).run(ScriptedStop(turn))
    failed = [line for line in logs if line["event"] == "ledger_part_failed"]
    assert [line["retry_in_s"] for line in failed] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert {(line["part"], line["reason"], line["exc_info"]) for line in failed} == {("reaper", "ValueError", True)}
    assert [line["part"] for line in logs if line["event"] == "ledger_part_recovered"] == ["reaper"]
    assert len(stored(database)) == 41


@pytest.fixture
def restored_redis(redis_server: Any) -> Iterator[Any]:
    """A server that a test may stop."""
    yield redis_server
    redis_server.stop()
    redis_server.start()


def test_the_loop_survives_an_outage_of_redis(database: Database, restored_redis: Any) -> None:
    redis = Redis(restored_redis.url)
    seen: list[int] = []

    class Outside(ScriptedStop):
        def wait(self, timeout_s: float) -> bool:
            seen.append(len(logs))
            if len(seen) == 3:
                restored_redis.start()
                send(Redis(restored_redis.url), "after")
            return threading.Event().wait(0.02)

    def turn(number: int) -> bool:
        if number == 0:
            restored_redis.stop()
        return stored(database) == ["after"]

    with capture_logs() as logs:
        process(redis, database, monotonic=clock()).run(Outside(turn))
    events = [line["event"] for line in logs if line.get("part") == "outbox"]
    assert len(events) >= 2
    assert set(events[:-1]) == {"ledger_part_failed"}
    assert events[-1] == "ledger_part_recovered"


def test_the_loop_survives_an_outage_of_the_database(redis: Redis, database: Database) -> None:
    with database.write() as connection:
        connection.exec_driver_sql("ALTER TABLE usage RENAME TO away")
    send(redis, "a")

    def turn(number: int) -> bool:
        if number == 5:
            with database.write() as connection:
                connection.exec_driver_sql("ALTER TABLE away RENAME TO usage")
        return number > 5 and stored(database) == ["a"]

    with capture_logs() as logs:
        process(redis, database, monotonic=clock()).run(ScriptedStop(turn))
    reasons = {line["reason"] for line in logs if line["event"] == "ledger_part_failed"}
    assert reasons == {"The database does not answer as it should (OperationalError)."}
    assert redis.execute("XLEN", OUTBOX) == 0

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from app.errors import StoreUnavailable
from app.store.ledger import Ledger
from app.store.outbox import Outbox
from app.store.redis.client import Redis
from app.store.redis.keys import OUTBOX
from app.store.sql.database import Database
from app.store.sql.tables import dead_letter, usage, usage_daily


def send(redis: Redis, *request_ids: str) -> None:
    for request_id in request_ids:
        call = {"request_id": request_id, "ts": 1.0, "key_id": "key_1", "model": "fast", "status": "ok"}
        row = {**call, "cost_nanousd": 7}
        redis.execute("XADD", OUTBOX, "*", "row", json.dumps(row))


def stored(database: Database) -> list[str]:
    with database.read() as connection:
        return list(connection.execute(sa.select(usage.c.request_id).order_by(usage.c.request_id)).scalars())


def clock(step_s: float = 1.0) -> Callable[[], float]:
    return itertools.count(0, step_s).__next__


class Loop:
    """Stands for the outside of the ledger process: `turn` is called at every look at the flag."""

    def __init__(self, turn: Callable[[int], bool]) -> None:
        self._turn = turn
        self._turns = itertools.count()
        self.waits: list[float] = []
        self.deadline = time.monotonic() + 20

    def is_set(self) -> bool:
        assert time.monotonic() < self.deadline, "the loop does not end"
        return self._turn(next(self._turns))

    def wait(self, timeout: float) -> bool:
        self.waits.append(timeout)
        return False

    def run_once(self) -> None:
        """As a reaper with nothing to reap."""

    def sync_mirror(self) -> None:
        """As keys with nothing to tell."""


class Broken:
    def __init__(self, error: Exception, times: int = 10**9) -> None:
        self._error, self._left = error, times
        self.calls = 0

    def run_once(self) -> None:
        self.calls += 1
        if self.calls <= self._left:
            raise self._error


@pytest.fixture
def outbox(redis: Redis, database: Database) -> Outbox:
    return Outbox(redis=redis, ledger=Ledger(database=database), monotonic=clock())


def test_rows_move_in_order_and_in_batches_from_the_stream_to_the_ledger(
    redis: Redis, database: Database, outbox: Outbox
) -> None:
    assert outbox.drain() == 0
    send(redis, "a", "b", "c")
    assert outbox.depth() == 3
    assert outbox.drain(batch=2) == 2
    assert stored(database) == ["a", "b"]
    assert outbox.drain(batch=2) == 1
    assert stored(database) == ["a", "b", "c"]
    assert outbox.depth() == 0


def test_a_crash_between_the_commit_and_the_deletion_writes_nothing_twice(
    redis: Redis, redis_server: Any, database: Database, outbox: Outbox
) -> None:
    class Crashing(Redis):
        def execute(self, *args: Any) -> Any:
            if args[0] == "XDEL":
                raise KeyboardInterrupt
            return super().execute(*args)

    send(redis, "a", "b")
    crashing = Outbox(redis=Crashing(redis_server.url), ledger=Ledger(database=database))
    with pytest.raises(KeyboardInterrupt):
        crashing.drain()
    assert stored(database) == ["a", "b"]
    assert outbox.depth() == 2
    send(redis, "c")
    assert outbox.drain() == 3
    assert stored(database) == ["a", "b", "c"]
    with database.read() as connection:
        assert connection.execute(sa.select(usage_daily.c.calls, usage_daily.c.cost_nanousd)).all() == [(3, 21)]


def test_rows_stay_in_the_stream_while_the_database_fails(redis: Redis, database: Database, outbox: Outbox) -> None:
    send(redis, "a")
    with database.write() as connection:
        connection.exec_driver_sql("ALTER TABLE usage RENAME TO away")
    with pytest.raises(StoreUnavailable):
        outbox.drain()
    assert outbox.depth() == 1
    with database.write() as connection:
        connection.exec_driver_sql("ALTER TABLE away RENAME TO usage")
    assert outbox.drain() == 1
    assert stored(database) == ["a"]


def test_an_entry_that_is_no_row_does_not_stop_the_others(redis: Redis, database: Database, outbox: Outbox) -> None:
    redis.execute("XADD", OUTBOX, "*", "what", "is this")
    redis.execute("XADD", OUTBOX, "*", "row", b"\xff{")
    send(redis, "a")
    with capture_logs() as logs:
        assert outbox.drain() == 3
    assert stored(database) == ["a"]
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["ledger_row_set_aside"] * 2
    with database.read() as connection:
        assert set(connection.execute(sa.select(dead_letter.c.row)).scalars()) == {"what is this", "\ufffd{"}


def test_the_lag_is_the_age_of_the_oldest_row(redis: Redis, outbox: Outbox) -> None:
    assert outbox.lag_s() == 0
    now_ms = int(redis.execute("TIME")[0]) * 1000
    redis.execute("XADD", OUTBOX, f"{now_ms - 60_000}-0", "row", "x")
    send(redis, "b")
    assert 60 <= outbox.lag_s() < 65


def test_a_drain_that_may_wait_returns_with_the_first_row(redis: Redis, outbox: Outbox, redis_server: Any) -> None:
    sender = threading.Timer(0.1, send, (Redis(redis_server.url), "a"))
    sender.start()
    assert outbox.drain(block_ms=1000) == 1
    sender.join()


def test_a_quiet_outbox_is_not_taken_for_a_dead_redis(outbox: Outbox) -> None:
    started = time.monotonic()
    assert outbox.drain(block_ms=60_000) == 0
    assert time.monotonic() - started < 1.9


def test_the_loop_drains_waits_for_rows_and_does_chores_every_second(
    redis: Redis, database: Database, redis_server: Any
) -> None:
    done: list[str] = []

    class Chores:
        def run_once(self) -> None:
            done.append("reap")

        def sync_mirror(self) -> None:
            done.append("sync")

    def turn(number: int) -> bool:
        send(redis, f"row-{number}")
        return number == 6

    loop = Loop(turn)
    # The clock moves each time the loop looks at it: by half a second in a turn.
    outbox = Outbox(redis=redis, ledger=Ledger(database=database), monotonic=clock(0.25))
    outbox.run(loop, reaper=Chores(), keys=Chores())
    assert stored(database) == [f"row-{number}" for number in range(7)]
    assert loop.waits == [0.1] * 6
    assert done == ["reap", "sync"] * 3


def test_what_arrives_while_the_process_is_told_to_stop_is_still_drained(
    redis: Redis, database: Database, outbox: Outbox
) -> None:
    def turn(number: int) -> bool:
        send(redis, *(f"row-{i:04}" for i in range(501)))
        return True

    loop = Loop(turn)
    outbox.run(loop, reaper=loop, keys=loop)
    assert len(stored(database)) == 501
    assert outbox.depth() == 0


def test_the_loop_ends_in_peace_when_redis_is_away(database: Database, dead_redis: Redis) -> None:
    loop = Loop(lambda number: True)
    with capture_logs() as logs:
        Outbox(redis=dead_redis, ledger=Ledger(database=database)).run(loop, reaper=loop, keys=loop)
    assert [line["event"] for line in logs] == ["ledger_started", "outbox_not_drained", "ledger_stopped"]


def test_a_part_that_fails_is_tried_ever_less_often_and_others_go_on(redis: Redis, database: Database) -> None:
    reaper = Broken(ValueError("a bug"), times=8)
    loop = Loop(lambda number: send(redis, f"row-{number:03}") or number == 40)  # type: ignore[func-returns-value]
    with capture_logs() as logs:
        Outbox(redis=redis, ledger=Ledger(database=database), monotonic=clock(0.5)).run(loop, reaper=reaper, keys=loop)
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

    class Outside(Loop):
        def wait(self, timeout: float) -> bool:
            seen.append(len(logs))
            if len(seen) == 3:
                restored_redis.start()
                send(Redis(restored_redis.url), "after")
            return threading.Event().wait(0.02)

    def turn(number: int) -> bool:
        if number == 0:
            restored_redis.stop()
        return stored(database) == ["after"]

    loop = Outside(turn)
    with capture_logs() as logs:
        Outbox(redis=redis, ledger=Ledger(database=database), monotonic=clock()).run(loop, reaper=loop, keys=loop)
    events = [line["event"] for line in logs if line.get("part") == "outbox"]
    assert len(events) >= 2
    assert set(events[:-1]) == {"ledger_part_failed"}
    assert events[-1] == "ledger_part_recovered"


def test_the_loop_survives_an_outage_of_the_database(redis: Redis, database: Database, outbox: Outbox) -> None:
    with database.write() as connection:
        connection.exec_driver_sql("ALTER TABLE usage RENAME TO away")
    send(redis, "a")

    def turn(number: int) -> bool:
        if number == 5:
            with database.write() as connection:
                connection.exec_driver_sql("ALTER TABLE away RENAME TO usage")
        return number > 5 and stored(database) == ["a"]

    loop = Loop(turn)
    with capture_logs() as logs:
        outbox.run(loop, reaper=loop, keys=loop)
    reasons = {line["reason"] for line in logs if line["event"] == "ledger_part_failed"}
    assert reasons == {"The database does not answer as it should (OperationalError)."}
    assert outbox.depth() == 0

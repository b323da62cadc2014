from __future__ import annotations

import threading
import time
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
from app.store.sql.tables import dead_letter, usage_daily
from tests.support.rows import send, stored


@pytest.fixture
def outbox(redis: Redis, database: Database) -> Outbox:
    return Outbox(redis=redis, ledger=Ledger(database=database))


def test_rows_move_in_order_and_in_batches_from_the_stream_to_the_ledger(
    redis: Redis, database: Database, outbox: Outbox
) -> None:
    assert outbox.drain() == 0
    send(redis, "a", "b", "c")
    assert outbox.depth() == 3
    assert outbox.drain(max_rows=2) == 2
    assert stored(database) == ["a", "b"]
    assert outbox.drain(max_rows=2) == 1
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

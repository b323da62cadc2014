"""A settlement that is replayed late charges once, whatever Redis still knows of its call."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.errors import StoreUnavailable
from app.gateway.limits import LIMITS, Amounts
from app.store.ledger import Ledger, UsageRow
from app.store.outbox import Outbox
from app.store.redelivery import Redelivery, charged_for
from app.store.redis.client import Arg, Redis
from app.store.redis.keys import NOTHING, OUTBOX, reservation_key
from app.store.spool import Spool
from app.store.sql.database import Database

COUNTER = "penstock:limit:key_1:budget_usd_per_month:2026-11"
ROW = {
    "request_id": "r",
    "call_id": "call_1",
    "ts": 1.0,
    "key_id": "key_1",
    "model": "m",
    "provider": "p",
    "prompt_tokens": 3,
    "completion_tokens": 4,
    "cost_nanousd": 70,
    "status": "ok",
}


class RedeliveryHarness:
    """One worker's spool, the outbox and the ledger."""

    def __init__(self, redis: Redis, database: Database, directory: Path) -> None:
        self.redis = redis
        self.database = database
        self.ledger = Ledger(database=database)
        self.outbox = Outbox(redis=redis, ledger=self.ledger)
        self.script = redis.script("settle")
        self.directory = directory
        never_ran = Redelivery(redis=redis, outbox=self.outbox).never_ran
        self.spool = Spool(directory, name="a", retry_s=3600, never_ran=never_ran)

    def settle(self, script: Callable[[Any, Any], Any]) -> None:
        keys = [reservation_key("call_1"), "penstock:reservations:w", NOTHING, NOTHING, NOTHING, OUTBOX, COUNTER]
        limit: list[Arg] = ["window", 70, 1_000_000, 86_400_000]
        self.spool.settle(script, keys, ["call_1", "settled", json.dumps(ROW), "", 1, 120_000, *limit])  # type: ignore[arg-type]

    def runs_unanswered(self, keys: Any, args: Any) -> int:
        self.script(keys, args)
        raise StoreUnavailable("no answer")

    def never_arrives(self, keys: Any, args: Any) -> int:
        raise StoreUnavailable("away")

    def forget(self) -> None:
        """As Redis does some minutes after a call's end, and a day after it was lost."""
        self.redis.execute("DEL", reservation_key("call_1"))

    def charged(self) -> int:
        return int(self.redis.execute("GET", COUNTER) or 0)

    def rows(self) -> dict[str, UsageRow]:
        self.outbox.drain()
        return self.ledger.find_rows(["call_1"])


@pytest.fixture
def harness(redis: Redis, database: Database, tmp_path: Path) -> RedeliveryHarness:
    return RedeliveryHarness(redis, database, tmp_path / "spool")


@pytest.mark.parametrize("drained", [False, True], ids=["in the outbox", "in the ledger"])
def test_a_settlement_that_ran_unanswered_charges_once_however_late(harness: RedeliveryHarness, drained: bool) -> None:
    harness.settle(harness.runs_unanswered)
    if drained:
        harness.outbox.drain()
    harness.forget()
    assert harness.spool.replay(harness.script) == 1
    assert harness.charged() == 70
    assert harness.rows()["call_1"].cost_nanousd == 70
    assert not any(harness.directory.iterdir())


def test_a_settlement_that_never_ran_charges_without_its_reservation(harness: RedeliveryHarness) -> None:
    harness.settle(harness.never_arrives)
    assert harness.spool.replay(harness.script) == 1
    assert harness.charged() == 70
    assert harness.rows()["call_1"].status == "ok"


def test_a_line_of_the_previous_version_is_read_as_it_was_meant(harness: RedeliveryHarness) -> None:
    """Its arguments said what was reserved, and its reservation did not, except to the reaper."""
    reserved = ["window", 200, 150, 1_000_000, 86_400_000]
    for_reaper = {"row": ROW, "keys": [COUNTER], "args": reserved}
    harness.redis.execute("SET", COUNTER, 200, "PX", 86_400_000)
    harness.redis.execute("HSET", reservation_key("call_1"), "s", "open", "h", "0", "d", json.dumps(for_reaper))
    harness.redis.execute("ZADD", "penstock:reservations:w", 9e12, "call_1")
    used: list[Arg] = ["window", 200, 70, 1_000_000, 86_400_000]
    keys = [reservation_key("call_1"), "penstock:reservations:w", NOTHING, NOTHING, NOTHING, OUTBOX, COUNTER]
    args: list[Arg] = ["call_1", "settled", json.dumps(ROW), "", 1, 120_000, *used]
    encoded = [[base64.b64encode(str(each).encode()).decode() for each in part] for part in (keys, args)]
    harness.directory.mkdir()
    line = dict(zip(("keys", "args"), encoded, strict=True))
    (harness.directory / "old.jsonl").write_text(json.dumps(line, separators=(",", ":")) + "\n")
    assert harness.spool.replay(harness.script) == 1
    assert harness.charged() == 70
    assert harness.rows()["call_1"].cost_nanousd == 70
    assert not any(harness.directory.iterdir())


@pytest.mark.parametrize("drained", [False, True], ids=["in the outbox", "in the ledger"])
def test_a_call_that_was_lost_long_ago_is_corrected_by_its_late_settlement(
    harness: RedeliveryHarness, drained: bool
) -> None:
    harness.settle(harness.never_arrives)
    harness.redis.execute("SET", COUNTER, 90, "PX", 86_400_000)  # the reaper's estimate
    lost = ROW | {"status": "lost", "cost_nanousd": 90, "estimated": True}
    harness.redis.execute("XADD", OUTBOX, "*", "row", json.dumps(lost))
    if drained:
        harness.outbox.drain()
    harness.forget()
    assert harness.spool.replay(harness.script) == 1
    assert harness.charged() == 70
    row = harness.rows()["call_1"]
    assert (row.status, row.cost_nanousd, row.estimated) == ("ok", 70, False)
    assert harness.redis.execute("PTTL", reservation_key("call_1")) > 0, "nothing stays for ever"


def test_while_the_ledger_is_silent_nothing_is_charged_and_nothing_lost(harness: RedeliveryHarness) -> None:
    harness.settle(harness.runs_unanswered)
    harness.forget()
    harness.outbox.drain()
    file = Path(str(harness.database.file))
    harness.database.close()
    file.rename(file.with_suffix(".away"))
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            harness.spool.replay(harness.script)
    harness.database.close()
    file.with_suffix(".away").rename(file)
    assert harness.spool.replay(harness.script) == 1
    assert harness.charged() == 70


def test_a_row_is_found_among_many_that_wait(harness: RedeliveryHarness) -> None:
    for number in range(1203):
        harness.redis.execute("XADD", OUTBOX, "*", "row", json.dumps(ROW | {"call_id": f"call_{number}"}))
    harness.redis.execute("XADD", OUTBOX, "*", "row", "no row")
    assert set(harness.outbox.find_rows({"call_0", "call_500", "call_1202", "call_x"})) == {
        "call_0",
        "call_500",
        "call_1202",
    }


def test_every_limit_is_known_by_what_it_counts() -> None:
    row = UsageRow(
        request_id="r",
        ts=1.0,
        key_id="k",
        model="m",
        status="lost",
        prompt_tokens=3,
        completion_tokens=4,
        cost_nanousd=70,
    )
    used = Amounts(1, 7, 70)
    for limit in LIMITS:
        for window in ("", ":2026-11", ":2026-11-21"):
            assert charged_for(f"penstock:limit:key_1:{limit.name}{window}", row) == used[limit.index], limit.name

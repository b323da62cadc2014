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
from app.store.redis.client import Redis
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


class Shop:
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
        limit = ["window", 70, 1_000_000, 86_400_000]
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
def shop(redis: Redis, database: Database, tmp_path: Path) -> Shop:
    return Shop(redis, database, tmp_path / "spool")


@pytest.mark.parametrize("drained", [False, True], ids=["in the outbox", "in the ledger"])
def test_a_settlement_that_ran_unanswered_charges_once_however_late(shop: Shop, drained: bool) -> None:
    shop.settle(shop.runs_unanswered)
    if drained:
        shop.outbox.drain()
    shop.forget()
    assert shop.spool.replay(shop.script) == 1
    assert shop.charged() == 70
    assert shop.rows()["call_1"].cost_nanousd == 70
    assert not any(shop.directory.iterdir())


def test_a_settlement_that_never_ran_charges_without_its_reservation(shop: Shop) -> None:
    shop.settle(shop.never_arrives)
    assert shop.spool.replay(shop.script) == 1
    assert shop.charged() == 70
    assert shop.rows()["call_1"].status == "ok"


def test_a_line_of_the_previous_version_is_read_as_it_was_meant(shop: Shop) -> None:
    """Its arguments said what was reserved, and its reservation did not, except to the reaper."""
    reserved = ["window", 200, 150, 1_000_000, 86_400_000]
    for_reaper = {"row": ROW, "keys": [COUNTER], "args": reserved}
    shop.redis.execute("SET", COUNTER, 200, "PX", 86_400_000)
    shop.redis.execute("HSET", reservation_key("call_1"), "s", "open", "h", "0", "d", json.dumps(for_reaper))
    shop.redis.execute("ZADD", "penstock:reservations:w", 9e12, "call_1")
    used = ["window", 200, 70, 1_000_000, 86_400_000]
    keys = [reservation_key("call_1"), "penstock:reservations:w", NOTHING, NOTHING, NOTHING, OUTBOX, COUNTER]
    args = ["call_1", "settled", json.dumps(ROW), "", 1, 120_000, *used]
    keys, args = ([base64.b64encode(str(each).encode()).decode() for each in part] for part in (keys, args))
    shop.directory.mkdir()
    line = {"keys": keys, "args": args}
    (shop.directory / "old.jsonl").write_text(json.dumps(line, separators=(",", ":")) + "\n")
    assert shop.spool.replay(shop.script) == 1
    assert shop.charged() == 70
    assert shop.rows()["call_1"].cost_nanousd == 70
    assert not any(shop.directory.iterdir())


@pytest.mark.parametrize("drained", [False, True], ids=["in the outbox", "in the ledger"])
def test_a_call_that_was_lost_long_ago_is_corrected_by_its_late_settlement(shop: Shop, drained: bool) -> None:
    shop.settle(shop.never_arrives)
    shop.redis.execute("SET", COUNTER, 90, "PX", 86_400_000)  # the reaper's estimate
    lost = ROW | {"status": "lost", "cost_nanousd": 90, "estimated": True}
    shop.redis.execute("XADD", OUTBOX, "*", "row", json.dumps(lost))
    if drained:
        shop.outbox.drain()
    shop.forget()
    assert shop.spool.replay(shop.script) == 1
    assert shop.charged() == 70
    row = shop.rows()["call_1"]
    assert (row.status, row.cost_nanousd, row.estimated) == ("ok", 70, False)
    assert shop.redis.execute("PTTL", reservation_key("call_1")) > 0, "nothing stays for ever"


def test_while_the_ledger_is_silent_nothing_is_charged_and_nothing_lost(shop: Shop) -> None:
    shop.settle(shop.runs_unanswered)
    shop.forget()
    shop.outbox.drain()
    file = Path(str(shop.database.file))
    shop.database.close()
    file.rename(file.with_suffix(".away"))
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            shop.spool.replay(shop.script)
    shop.database.close()
    file.with_suffix(".away").rename(file)
    assert shop.spool.replay(shop.script) == 1
    assert shop.charged() == 70


def test_a_row_is_found_among_many_that_wait(shop: Shop) -> None:
    for number in range(1203):
        shop.redis.execute("XADD", OUTBOX, "*", "row", json.dumps(ROW | {"call_id": f"call_{number}"}))
    shop.redis.execute("XADD", OUTBOX, "*", "row", "no row")
    assert set(shop.outbox.find_rows({"call_0", "call_500", "call_1202", "call_x"})) == {
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

"""Rows of the ledger for tests: made with the fields that every row has, sent to the outbox, and read back."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa

from app.domain.usage import UsageRow
from app.store.redis.client import Redis
from app.store.redis.keys import OUTBOX
from app.store.sql.database import Database
from app.store.sql.tables import usage


def usage_row(call_id: str = "call_1", **fields: Any) -> UsageRow:
    known: dict[str, Any] = {"request_id": f"req_{call_id}", "ts": 1.0, "key_id": "key_1", "model": "m"}
    return UsageRow(call_id=call_id, **{**known, "status": "lost", **fields})


def send(redis: Redis, *request_ids: str) -> None:
    for request_id in request_ids:
        call = {"request_id": request_id, "ts": 1.0, "key_id": "key_1", "model": "fast", "status": "ok"}
        row = {**call, "cost_nanousd": 7}
        redis.execute("XADD", OUTBOX, "*", "row", json.dumps(row))


def stored(database: Database) -> list[str]:
    with database.read() as connection:
        return list(connection.execute(sa.select(usage.c.request_id).order_by(usage.c.request_id)).scalars())

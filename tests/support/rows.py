"""Rows of the ledger for tests: the fields that every row has are given."""

from __future__ import annotations

from typing import Any

from app.domain.usage import UsageRow


def usage_row(call_id: str = "call_1", **fields: Any) -> UsageRow:
    known: dict[str, Any] = {"request_id": f"req_{call_id}", "ts": 1.0, "key_id": "key_1", "model": "m"}
    return UsageRow(call_id=call_id, **{**known, "status": "lost", **fields})

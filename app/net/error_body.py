"""Error body: the one JSON shape of every error, as OpenAI's clients parse it, with a stable code of our own."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from app.errors import GatewayError


def error_body(error: GatewayError, request_id: str) -> dict[str, Any]:
    """Returns the body (docs/api.md). Needs no request context: a stream outlives its own."""
    return {
        "error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code},
        "code": error.code,
        "request_id": request_id,
        "timestamp": utc_timestamp(),
    }


def utc_timestamp() -> str:
    """Returns the time as `2026-11-21T12:00:00Z`."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

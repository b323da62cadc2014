"""Error body: the one JSON shape of every error, as OpenAI's clients parse it, with a stable code of our own."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from app.errors import GatewayError

_OPENAI_CODES = {"CONTEXT_LENGTH_EXCEEDED": "context_length_exceeded"}


def error_body(error: GatewayError, request_id: str) -> dict[str, Any]:
    """Returns the body (docs/api.md). Needs no request context: a stream outlives its own."""
    return {
        "error": {"message": error.message, "type": error.type, "param": error.param, "code": openai_code(error)},
        "code": error.code,
        "request_id": request_id,
        "timestamp": utc_timestamp(),
    }


def openai_code(error: GatewayError) -> str:
    """Returns OpenAI's code of an error where its clients act on it, and otherwise ours."""
    return _OPENAI_CODES.get(error.code, error.code)


def utc_timestamp() -> str:
    """Returns the time as `2026-11-21T12:00:00Z`."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

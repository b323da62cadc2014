"""Errors of chat completions: our own as OpenAI's clients parse them, and a vendor's in the middle of a stream."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from app.errors import GatewayError
from app.net.error_body import error_body as error_body
from app.providers.dialects.dialect import StreamEncoder, StreamReported, Watch

_STATUSES = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "insufficient_quota": 429,
    "overloaded_error": 503,
    "server_overloaded": 503,
}


def error_event(error: GatewayError, request_id: str, stream: StreamEncoder | Watch | None) -> bytes:
    """Returns the event that ends a stream which broke off."""
    return b"data: " + msgspec.json.encode(error_body(error, request_id)) + b"\n\n"


def reported_error(payload: bytes) -> StreamReported:
    """Returns the error in a chunk `{"error": …}`. Many vendors say its status in `code`, OpenAI only its type."""
    error: Any = json.loads(payload)["error"]
    if not isinstance(error, dict):
        return StreamReported(error if isinstance(error, str) else "", payload=payload)
    message = error.get("message")
    status = next((code for code in (error.get("code"), error.get("status")) if _is_status(code)), None)
    if status is None:
        names = (error.get("type"), error.get("code"))
        status = next((_STATUSES[name] for name in names if isinstance(name, str) and name in _STATUSES), 500)
    return StreamReported(message if isinstance(message, str) else "", status=int(status), payload=payload)


def _is_status(code: object) -> bool:
    return (isinstance(code, int) and 400 <= code < 600) or (
        isinstance(code, str) and code.isascii() and code.isdigit() and 400 <= int(code) < 600
    )

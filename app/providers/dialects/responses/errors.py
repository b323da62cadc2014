"""Errors in the dialect: bodies, the event `response.failed`, and what a vendor's own say."""

from __future__ import annotations

from typing import Any

import msgspec

from app.errors import BudgetExceeded, ContextOverflow, GatewayError, InvalidRequest, RateLimited
from app.net.error_body import error_body as openai_error_body
from app.providers.dialects.dialect import StreamReported

_encode = msgspec.json.Encoder().encode
# The statuses that the codes of a failed response would have had.
_STATUSES = {
    "rate_limit_exceeded": 429,
    "insufficient_quota": 429,
    "usage_not_included": 429,
    "context_length_exceeded": 400,
    "invalid_prompt": 400,
    "bio_policy": 400,
    "misalignment_policy_violation": 400,
    "data_residency_mismatch": 400,
    "model_not_found": 404,
    "server_is_overloaded": 503,
    "slow_down": 503,
    "vector_store_timeout": 504,
}
_REFUSED_INPUT = ("invalid_", "image_", "unsupported_", "empty_image", "failed_to_download_image")


def error_body(error: GatewayError, request_id: str) -> dict[str, Any]:
    """Returns the body of an error before the first byte."""
    return openai_error_body(error, request_id)


def failure(error: GatewayError) -> dict[str, Any]:
    """Returns the `error` of a failed response. Codex acts upon its code, and reads the wait in its message."""
    message = error.message
    if isinstance(error, BudgetExceeded):
        code = "insufficient_quota"
    elif isinstance(error, RateLimited):
        code = "rate_limit_exceeded"
        if error.retry_after_s is not None:
            message = f"{message} Please try again in {error.retry_after_s:.3g}s."
    elif isinstance(error, ContextOverflow):
        code = error.code
    else:
        code = "invalid_prompt" if isinstance(error, InvalidRequest) else "server_error"
    return {"code": code, "message": message}


def reported_failure(response: dict[str, Any], payload: bytes) -> StreamReported:
    """Returns the error that a failed response, or an event `error`, reports."""
    error = response.get("error")
    error = error if isinstance(error, dict) else response
    code, message = error.get("code"), error.get("message")
    message = message if isinstance(message, str) and message else "The response failed."
    return StreamReported(message, status=_status(code if isinstance(code, str) else ""), payload=payload)


def _status(code: str) -> int:
    return _STATUSES.get(code) or (400 if code.startswith(_REFUSED_INPUT) else 500)

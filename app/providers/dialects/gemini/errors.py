"""Errors as Google writes them: `google.rpc.Status`, with the details that its clients read.

Source: google.rpc's error_details.proto, and how Gemini CLI decides to wait and ask again.
"""

from __future__ import annotations

from typing import Any

import msgspec

from app.errors import GatewayError, RateLimited
from app.providers.dialects.dialect import StreamEncoder, Watch

_TYPE = "type.googleapis.com/google.rpc."
_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "UNIMPLEMENTED",
    409: "ABORTED",
    413: "INVALID_ARGUMENT",
    415: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


def error_body(error: GatewayError, request_id: str) -> dict[str, Any]:
    """Returns the body of an error response. The request's id stands in its details."""
    details: list[dict[str, Any]] = [
        {"@type": f"{_TYPE}ErrorInfo", "reason": error.code, "domain": "penstock", "metadata": {}},
        {"@type": f"{_TYPE}RequestInfo", "requestId": request_id},
    ]
    if error.param:
        violation = {"field": error.param, "description": error.message}
        details.append({"@type": f"{_TYPE}BadRequest", "fieldViolations": [violation]})
    if isinstance(error, RateLimited):
        violation = {"subject": error.limit, "description": error.message, "quotaId": _quota_id(error)}
        details.append({"@type": f"{_TYPE}QuotaFailure", "violations": [violation]})
    if error.retry_after_s is not None:
        details.append({"@type": f"{_TYPE}RetryInfo", "retryDelay": f"{max(error.retry_after_s, 0):.3f}s"})
    status = _STATUSES.get(error.status) or ("INVALID_ARGUMENT" if error.status < 500 else "INTERNAL")
    return {"error": {"code": error.status, "message": error.message, "status": status, "details": details}}


def _quota_id(error: RateLimited) -> str:
    """Returns a name that tells Gemini CLI if waiting helps: a quota `PerDay` is one that is used up."""
    return f"{error.limit}-{'PerMinute' if error.retryable else 'PerDay'}"


def error_event(error: GatewayError, request_id: str, stream: StreamEncoder | Watch | None) -> bytes:
    """Returns an error after the first byte, as SSE."""
    return b"data: " + msgspec.json.encode(error_body(error, request_id)) + b"\n\n"

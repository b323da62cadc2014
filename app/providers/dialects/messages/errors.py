"""Errors in this dialect: bodies, events of a stream, and those that a vendor's stream reports."""

from __future__ import annotations

from typing import Any

import msgspec

from app.errors import GatewayError, UpstreamError, UpstreamUnavailable
from app.net.error_body import error_body as chat_error_body
from app.providers.dialects.dialect import StreamEncoder, StreamReported, Watch

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode
_OVERLOADED = 529  # Anthropic's own status, which no other dialect has
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    504: "timeout_error",
    _OVERLOADED: "overloaded_error",
}
_STATUSES = {name: status for status, name in _TYPES.items()}


def error_type(error: GatewayError) -> str:
    """Returns Anthropic's name for the kind of `error`."""
    if isinstance(error, UpstreamUnavailable):
        return "overloaded_error"
    found = _TYPES.get(error.status)
    return found or ("api_error" if error.status >= 500 else "invalid_request_error")


def error_body(error: GatewayError, request_id: str) -> dict[str, Any]:
    """Returns the body of an error: Anthropic's, and beside it the fields that the gateway's errors always have."""
    common = chat_error_body(error, request_id)
    detail = {"type": error_type(error), "message": error.message, "code": error.code}
    if error.param is not None:
        detail["param"] = error.param
    return {"type": "error", **common, "error": detail}


def error_event(error: GatewayError, request_id: str, stream: StreamEncoder | Watch | None) -> bytes:
    """Returns the event that ends a stream: the vendor's own, if it speaks this dialect."""
    if isinstance(error, UpstreamError) and error.native and error.native_dialect == "messages":
        return b"event: error\ndata: " + error.native.replace(b"\n", b" ") + b"\n\n"
    return b"event: error\ndata: " + _encode(error_body(error, request_id)) + b"\n\n"


def stream_error(payload: bytes) -> StreamReported:
    """Returns the error in a vendor's `error` event."""
    try:
        error = _decode(payload).get("error")
    except (ValueError, RecursionError):
        error = None
    found = error if isinstance(error, dict) else {}
    message, kind = found.get("message"), found.get("type")
    return StreamReported(
        message if isinstance(message, str) else "",
        status=_STATUSES.get(kind, 500) if isinstance(kind, str) else 500,
        payload=payload,
    )

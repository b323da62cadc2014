"""Every error leaves in one shape: the one that OpenAI clients parse, with a stable code of our own."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec
import structlog
from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from app.api.context import request_id
from app.api.headers import limit_headers
from app.api.http import HttpResponse
from app.api.paths import Suggestions, shown
from app.domain.printable import printable
from app.domain.retry_after import MAX_RETRY_AFTER_S
from app.errors import (
    GatewayError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    RateLimited,
    RequestTooLarge,
    UnsupportedMediaType,
)

log = structlog.get_logger()
_encode = msgspec.json.Encoder().encode
_BY_STATUS: dict[int, type[GatewayError]] = {
    404: NotFound,
    405: MethodNotAllowed,
    413: RequestTooLarge,
    415: UnsupportedMediaType,
}
_LONGEST_TYPE = 64


def utc_timestamp() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def error_body(error: GatewayError, request_id: str) -> dict[str, Any]:
    """The one error shape (docs/api.md). No request context is needed: a stream outlives its own."""
    return {
        "error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code},
        "code": error.code,
        "request_id": request_id,
        "timestamp": utc_timestamp(),
    }


def error_answer(error: GatewayError, request_id: str) -> HttpResponse:
    headers = [("Content-Type", "application/json")]
    if error.retry_after_s is not None:
        wait_s = min(max(error.retry_after_s, 0.001), MAX_RETRY_AFTER_S)
        headers.append(("Retry-After", str(math.ceil(wait_s))))
        headers.append(("retry-after-ms", str(math.ceil(wait_s * 1000))))
    if isinstance(error, RateLimited):
        headers += limit_headers(error.remaining)
        if not error.retryable:
            headers.append(("x-should-retry", "false"))
    elif error.should_retry is not None:
        headers.append(("x-should-retry", "true" if error.should_retry else "false"))
    if error.status == 401:
        headers.append(("WWW-Authenticate", "Bearer"))
    return HttpResponse(error.status, headers, _encode(error_body(error, request_id)))


def wrong_type(expected: str, sent: str) -> UnsupportedMediaType:
    """The error of a body that does not say to be of the type `expected`."""
    instead = f"not `{printable(sent[:_LONGEST_TYPE])}`" if sent else "none was sent"
    return UnsupportedMediaType(f"Expected Content-Type: {expected}; {instead}.")


def error_response(error: GatewayError) -> Response:
    answer = error_answer(error, request_id() if "http_request" in g else "")
    return Response(answer.body, answer.status, answer.headers)


def register(app: Flask) -> None:
    app.register_error_handler(GatewayError, error_response)
    suggestions = Suggestions(rule.rule for rule in app.url_map.iter_rules())
    app.register_error_handler(HTTPException, partial(_http_error, suggestions))
    app.register_error_handler(Exception, _unexpected)


def _http_error(suggestions: Suggestions, exc: HTTPException) -> Response:
    status = exc.code or 500
    if 300 <= status < 400:
        return Response(status=status, headers=exc.get_headers())
    if isinstance(exc, RequestEntityTooLarge):
        return error_response(RequestTooLarge("The request body is too large."))
    kind = _BY_STATUS.get(status, InvalidRequest if status < 500 else GatewayError)
    methods = sorted(getattr(exc, "valid_methods", None) or ())
    response = error_response(kind(_message(status, suggestions, methods)))
    if methods:
        response.headers["Allow"] = ", ".join(methods)
    return response


def _message(status: int, suggestions: Suggestions, methods: list[str]) -> str:
    path = shown(request.path)
    if status == 404:
        meant = suggestions.of(request.path)
        return f"Unknown request URL: {request.method} {path}." + (f" Did you mean {meant}?" if meant else "")
    if status == 405:
        usable = " or ".join(method for method in methods if method not in ("HEAD", "OPTIONS"))
        return f"{request.method} is not allowed for {path}" + (f": use {usable}." if usable else ".")
    return "The request could not be understood." if status < 500 else "The server had an error."


def _unexpected(exc: Exception) -> Response:
    # The boundary for bugs: the caller learns nothing of them, the log everything.
    log.error("unexpected_error", request_id=request_id() if "http_request" in g else "", exc_info=exc)
    return error_response(GatewayError("The server had an error while processing your request."))

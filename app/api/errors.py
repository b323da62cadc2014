"""Error responses: every error in the one shape, with `Retry-After` and the other headers that belong to it."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import msgspec
import structlog
from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from app.api.anthropic_headers import answer_headers
from app.api.context import request_id
from app.api.headers import limit_headers
from app.api.http import HttpResponse
from app.api.paths import Suggestions, printable_path
from app.domain.generation import DialectName
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
    UpstreamError,
)
from app.providers.dialects import DIALECTS

log = structlog.get_logger()
_encode = msgspec.json.Encoder().encode
_BY_STATUS: dict[int, type[GatewayError]] = {
    404: NotFound,
    405: MethodNotAllowed,
    413: RequestTooLarge,
    415: UnsupportedMediaType,
}
_MAX_CONTENT_TYPE_CHARS = 64
_GOOGLE_PREFIX = "/v1beta/"


def error_response(error: GatewayError, request_id: str, dialect: DialectName = "chat") -> HttpResponse:
    """Returns the error in the caller's dialect; a vendor's own refusal in its own words, if it speaks the same."""
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
    if dialect == "messages":
        headers += answer_headers(request_id, error.remaining if isinstance(error, RateLimited) else ())
    if error.status == 401:
        headers.append(("WWW-Authenticate", "Bearer"))
    body = DIALECTS[dialect].error_body(error, request_id)
    if isinstance(error, UpstreamError) and error.native and error.native_dialect == dialect:
        native = _with_ours(error.native, body) if dialect == "chat" else error.native
        return HttpResponse(error.upstream_status or error.status, headers, native)
    return HttpResponse(_status(error, dialect), headers, _encode(body))


def _with_ours(native: bytes, body: dict[str, Any]) -> bytes:
    """Returns our error of chat completions with the vendor's own fields, such as the `code` that clients act on."""
    decoded: Any = msgspec.json.decode(native)
    theirs = (decoded[0] if isinstance(decoded, list) else decoded)["error"]  # Google's has a list around it
    ours = body["error"]
    said = {name: value for name, value in theirs.items() if value is not None and name not in ("message", "param")}
    return _encode({**body, "error": {**ours, **said}})


def _status(error: GatewayError, dialect: DialectName) -> int:
    """Returns the error's status. Anthropic's clients know an overloaded vendor by a status of its own."""
    if dialect == "messages" and isinstance(error, UpstreamError) and error.upstream_status in (503, 529):
        return 529
    return error.status


def unsupported_media_type(expected: str, content_type: str) -> UnsupportedMediaType:
    """Returns the error of a body whose `content_type` is not `expected`."""
    actual = f"not `{printable(content_type[:_MAX_CONTENT_TYPE_CHARS])}`" if content_type else "none was sent"
    return UnsupportedMediaType(f"Expected Content-Type: {expected}; {actual}.")


def unexpected_error(exc: Exception, request_id: str) -> GatewayError:
    """Logs a bug and returns the error to answer with. The caller learns nothing of the bug, the log everything."""
    log.error("unexpected_error", request_id=request_id, exc_info=exc)
    return GatewayError("The server had an error while processing your request.")


def register(app: Flask, suggestions: Suggestions) -> None:
    """Has Flask answer its own errors, and those of views, in the one shape."""
    app.register_error_handler(GatewayError, _flask_response)
    app.register_error_handler(HTTPException, partial(_http_error, suggestions))
    app.register_error_handler(Exception, _unexpected)


def _flask_response(error: GatewayError) -> Response:
    dialect: DialectName = "gemini" if request.path.startswith(_GOOGLE_PREFIX) else "chat"
    response = error_response(error, _request_id(), dialect)
    return Response(response.body, response.status, response.headers)


def _http_error(suggestions: Suggestions, exc: HTTPException) -> Response:
    status = exc.code or 500
    if 300 <= status < 400:
        return Response(status=status, headers=exc.get_headers())
    if isinstance(exc, RequestEntityTooLarge):
        return _flask_response(RequestTooLarge("The request body is too large."))
    kind = _BY_STATUS.get(status, InvalidRequest if status < 500 else GatewayError)
    methods = sorted(getattr(exc, "valid_methods", None) or ())
    response = _flask_response(kind(_message(status, suggestions, methods)))
    if methods:
        response.headers["Allow"] = ", ".join(methods)
    return response


def _message(status: int, suggestions: Suggestions, methods: list[str]) -> str:
    path = printable_path(request.path)
    if status == 404:
        nearest = suggestions.nearest(request.path)
        return f"Unknown request URL: {request.method} {path}." + (f" Did you mean {nearest}?" if nearest else "")
    if status == 405:
        usable = " or ".join(method for method in methods if method not in ("HEAD", "OPTIONS"))
        return f"{request.method} is not allowed for {path}" + (f": use {usable}." if usable else ".")
    return "The request could not be understood." if status < 500 else "The server had an error."


def _unexpected(exc: Exception) -> Response:
    return _flask_response(unexpected_error(exc, _request_id()))


def _request_id() -> str:
    return request_id() if "http_request" in g else ""

"""Upstream errors: translates a response's status into an `UpstreamError`. Its body is not shown, with one exception.

The exception is a 400 or 422 in OpenAI's error shape: the caller wrote the request, and needs to know what is wrong
with it. Its message is capped and cleaned of anything that looks like a key.
"""

from __future__ import annotations

import math
import os
import re
import time
import traceback
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec
import structlog

from app.domain.retry_after import MAX_RETRY_AFTER_S
from app.errors import UpstreamError, UpstreamOverflow, UpstreamRejected, UpstreamTimeout, UpstreamUnavailable
from app.providers.http.exchange import Exchange
from app.providers.overflow import find_overflow

log = structlog.get_logger()
_MAX_MESSAGE_CHARS = 500
# A proxy in front of the provider did not wait for its answer (524 is Cloudflare's word): the provider may have worked
# on, and bills it. Any other error is a refusal, which nobody bills.
_PROXY_TIMEOUTS = (504, 524)
_KEY_SHAPED = re.compile(r"(?i)\b(?:sk|pk|pstk|key|api)[-_][A-Za-z0-9*_-]{6,}|\bBearer\s+\S+")
_CONTROL_CHARS = re.compile(r"[\x00-\x1f\x7f]+")


def log_stumble(provider: str, exc: BaseException) -> None:
    """Logs the place where a decoder stumbled over an answer, and nothing of the answer.

    It may be a bug of ours. A `ValueError` is none: with it a decoder says that it noticed.
    """
    if not isinstance(exc, ValueError):
        frame = traceback.extract_tb(exc.__traceback__, limit=-1)[0]
        at = f"{os.path.basename(frame.filename)}:{frame.lineno}"
        log.warning("answer_undecodable", provider=provider, error=type(exc).__name__, at=at)


def error_from_response(provider: str, exchange: Exchange, secrets: frozenset[str], dialect: str = "") -> UpstreamError:
    """Returns the error that `exchange`'s status stands for. Reads its body; one that breaks off is ignored.

    `dialect` is the vendor's: callers of the same one get the vendor's own refusal of what they wrote.
    """
    try:
        body = exchange.read_all()
    except UpstreamError:
        body = b""
    message, param, code = _caller_error(body, secrets)
    error = error_from_status(
        exchange.status,
        provider=provider,
        message=message,
        param=param,
        code=code,
        retry_after_s=_retry_after_s(exchange),
    )
    if isinstance(error, UpstreamRejected) and message:
        error.native, error.native_dialect = without_secrets(body, secrets), dialect
    return error


def error_from_status(
    status: int,
    *,
    provider: str,
    message: str = "",
    param: str | None = None,
    code: str = "",
    retry_after_s: float | None = None,
) -> UpstreamError:
    """Returns the error that an upstream `status` stands for. `message` and `param`, cleaned, explain a rejection."""
    if status in (400, 413, 422):
        overflow = find_overflow(message, code)
        if overflow is not None:
            return UpstreamOverflow(*overflow, provider=provider, upstream_status=status)
        return UpstreamRejected(
            message or "The provider refused the request.",
            provider=provider,
            kind="rejected",
            upstream_status=status,
            param=param,
        )
    cls, kind, what = _classify(status)
    return cls(
        f"The provider {provider} {what}.",
        provider=provider,
        kind=kind,
        upstream_status=status,
        billable=status in _PROXY_TIMEOUTS,
        retry_after_s=retry_after_s if cls is UpstreamUnavailable else None,
    )


def _classify(status: int) -> tuple[type[UpstreamError], str, str]:
    """Returns the error's class, its kind, and what its message says of the provider."""
    if status in (401, 403):
        return UpstreamError, "auth", "did not accept the gateway's credentials"
    if status == 404:
        return UpstreamError, "not_found", "does not know the model"
    if status == 408 or status in _PROXY_TIMEOUTS:
        return UpstreamTimeout, "timeout_first_byte", "took too long to answer"
    if status == 429:
        return UpstreamUnavailable, "rate_limited", "is limiting the gateway's calls"
    if status in (503, 529):
        return UpstreamUnavailable, "status_5xx", "is overloaded"
    return UpstreamError, "status_5xx" if status >= 500 else "status_4xx" if status >= 400 else "bad_body", "failed"


def _caller_error(body: bytes, secrets: frozenset[str]) -> tuple[str, str | None, str]:
    """Returns an error's message, cleaned of secrets, its parameter and code; "" and None for what it does not have."""
    try:
        decoded: Any = msgspec.json.decode(body)
        error: Any = (decoded[0] if isinstance(decoded, list) else decoded)["error"]
        message, param, code = error["message"], error.get("param"), error.get("code") or error.get("type")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return "", None, ""
    if not isinstance(message, str):
        return "", None, ""
    for secret in sorted(secrets, key=len, reverse=True):  # one may begin like another
        message = message.replace(secret, "[redacted]")
    message = _CONTROL_CHARS.sub(" ", _KEY_SHAPED.sub("[redacted]", message))[:_MAX_MESSAGE_CHARS]
    return message, param[:200] if isinstance(param, str) else None, code if isinstance(code, str) else ""


def without_secrets(body: bytes, secrets: frozenset[str] = frozenset()) -> bytes:
    """Returns `body` without `secrets`, and without anything that looks like a key."""
    for secret in sorted(secrets, key=len, reverse=True):
        body = body.replace(secret.encode(), b"[redacted]")
    return re.sub(_KEY_SHAPED.pattern.encode(), b"[redacted]", body)


def _parse_retry_after(value: str) -> float:
    """Returns a number, or the seconds until an HTTP date. Raises `ValueError`."""
    if value.endswith("GMT"):
        return parsedate_to_datetime(value).timestamp() - time.time()
    return float(value)


def _retry_after_s(exchange: Exchange) -> float | None:
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            wait_s = _parse_retry_after(exchange.header(name)) / unit
        except ValueError:
            continue
        if not math.isnan(wait_s):
            return min(max(wait_s, 0.0), MAX_RETRY_AFTER_S)
    return None

"""What an upstream status means to the caller. The upstream's body is never shown, with one exception.

The exception is a 400 or 422 in OpenAI's error shape: the caller wrote the request, and needs to know what is wrong
with it. Its message is capped and cleaned of anything that looks like a key.
"""

from __future__ import annotations

import math
import re
import time
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from app.domain.retry_after import MAX_RETRY_AFTER_S
from app.errors import UpstreamError, UpstreamRejected, UpstreamTimeout, UpstreamUnavailable
from app.providers.http.exchange import Exchange

_LONGEST_MESSAGE = 500
# A proxy in front of the provider did not wait for its answer (524 is Cloudflare's word): the provider may have worked
# on, and bills it. Any other error is a refusal, which nobody bills.
_GIVEN_UP_ON = (504, 524)
_LIKE_A_KEY = re.compile(r"(?i)\b(?:sk|pk|pstk|key|api)[-_][A-Za-z0-9*_-]{6,}|\bBearer\s+\S+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")


def error_from_response(provider: str, exchange: Exchange, secrets: frozenset[str]) -> UpstreamError:
    """The error that `exchange`'s status stands for. Reads its body; one that never ends changes nothing."""
    try:
        body = exchange.read_all()
    except UpstreamError:
        body = b""
    message, param = _reason(body, secrets)
    return error_from_status(
        exchange.status, provider=provider, message=message, param=param, retry_after_s=_retry_after_s(exchange)
    )


def error_from_status(
    status: int, *, provider: str, message: str = "", param: str | None = None, retry_after_s: float | None = None
) -> UpstreamError:
    """The error that an upstream `status` stands for. `message` and `param`, cleaned, tell of the caller's fault."""
    if status in (400, 413, 422):
        return UpstreamRejected(
            message or "The provider refused the request.",
            provider=provider,
            kind="rejected",
            upstream_status=status,
            param=param,
        )
    cls, kind, what = _meaning(status)
    return cls(
        f"The provider {provider} {what}.",
        provider=provider,
        kind=kind,
        upstream_status=status,
        billable=status in _GIVEN_UP_ON,
        retry_after_s=retry_after_s if cls is UpstreamUnavailable else None,
    )


def _meaning(status: int) -> tuple[type[UpstreamError], str, str]:
    if status in (401, 403):
        return UpstreamError, "auth", "did not accept the gateway's credentials"
    if status == 404:
        return UpstreamError, "not_found", "does not know the model"
    if status == 408 or status in _GIVEN_UP_ON:
        return UpstreamTimeout, "timeout_first_byte", "took too long to answer"
    if status == 429:
        return UpstreamUnavailable, "rate_limited", "is limiting the gateway's calls"
    if status in (503, 529):
        return UpstreamUnavailable, "status_5xx", "is overloaded"
    return UpstreamError, "status_5xx" if status >= 500 else "status_4xx" if status >= 400 else "bad_body", "failed"


def _reason(body: bytes, secrets: frozenset[str]) -> tuple[str, str | None]:
    try:
        error: Any = msgspec.json.decode(body)["error"]
        message, param = error["message"], error.get("param")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "", None
    if not isinstance(message, str):
        return "", None
    for secret in sorted(secrets, key=len, reverse=True):  # one may begin like another
        message = message.replace(secret, "[redacted]")
    message = _CONTROL.sub(" ", _LIKE_A_KEY.sub("[redacted]", message))[:_LONGEST_MESSAGE]
    return message, param[:200] if isinstance(param, str) else None


def _seconds(told: str) -> float:
    """A number, or the time until an HTTP date. Raises `ValueError`."""
    if told.endswith("GMT"):
        return parsedate_to_datetime(told).timestamp() - time.time()
    return float(told)


def _retry_after_s(exchange: Exchange) -> float | None:
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            wait_s = _seconds(exchange.header(name)) / unit
        except ValueError:
            continue
        if not math.isnan(wait_s):
            return min(max(wait_s, 0.0), MAX_RETRY_AFTER_S)
    return None

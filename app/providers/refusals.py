"""What an upstream status means to the caller. The upstream's body is never shown, with one exception.

The exception is a 400 or 422 in OpenAI's error shape: the caller wrote the request, and needs to know what is wrong
with it. Its message is capped and cleaned of anything that looks like a key.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from app.errors import UpstreamError, UpstreamRejected, UpstreamTimeout, UpstreamUnavailable
from app.providers.transport import Exchange

_LONGEST_MESSAGE = 500
_LONGEST_WAIT_S = 60.0
_LIKE_A_KEY = re.compile(r"(?i)\b(?:sk|pk|pstk|key|api)[-_][A-Za-z0-9*_-]{6,}|\bBearer\s+\S+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")


def refusal(provider: str, exchange: Exchange, secrets: frozenset[str]) -> UpstreamError:
    """The error that `exchange`'s status stands for. Reads its body."""
    status = exchange.status
    body = exchange.read_all()
    wait_s = _retry_after_s(exchange)
    if status in (400, 413, 422):
        message, param = _reason(body, secrets)
        return UpstreamRejected(
            message or "The provider refused the request.",
            provider=provider, kind="rejected", upstream_status=status, param=param,
        )  # fmt: skip
    if status in (401, 403):
        return UpstreamError(
            f"The provider {provider} did not accept the gateway's credentials.",
            provider=provider, kind="auth", upstream_status=status,
        )  # fmt: skip
    if status == 404:
        return UpstreamError(
            f"The provider {provider} does not know the model.",
            provider=provider, kind="not_found", upstream_status=status,
        )  # fmt: skip
    if status == 408:
        return UpstreamTimeout(
            f"The provider {provider} took too long to answer.",
            provider=provider, kind="timeout_first_byte", upstream_status=status,
        )  # fmt: skip
    if status == 429:
        return UpstreamUnavailable(
            f"The provider {provider} is limiting the gateway's calls.",
            provider=provider, kind="rate_limited", upstream_status=status, retry_after_s=wait_s,
        )  # fmt: skip
    if status in (503, 529):
        return UpstreamUnavailable(
            f"The provider {provider} is overloaded.",
            provider=provider, kind="status_5xx", upstream_status=status, retry_after_s=wait_s,
        )  # fmt: skip
    kind = "status_5xx" if status >= 500 else "status_4xx" if status >= 400 else "bad_body"
    return UpstreamError(f"The provider {provider} failed.", provider=provider, kind=kind, upstream_status=status)


def _reason(body: bytes, secrets: frozenset[str]) -> tuple[str, str | None]:
    try:
        error: Any = msgspec.json.decode(body)["error"]
        message, param = error["message"], error.get("param")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "", None
    if not isinstance(message, str):
        return "", None
    for secret in secrets:
        message = message.replace(secret, "[redacted]")
    message = _CONTROL.sub(" ", _LIKE_A_KEY.sub("[redacted]", message))[:_LONGEST_MESSAGE]
    return message, param[:200] if isinstance(param, str) else None


def _retry_after_s(exchange: Exchange) -> float | None:
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            return min(max(float(exchange.header(name)) / unit, 0.0), _LONGEST_WAIT_S)
        except ValueError:
            continue
    return None

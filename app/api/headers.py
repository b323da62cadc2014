"""Response headers of a model call, in the names and units that OpenAI's clients know."""

from __future__ import annotations

from app.domain.money import format_usd
from app.errors import Remaining
from app.gateway.call import Report

_LIMIT_NAMES = {
    unit: tuple(f"x-ratelimit-{what}-{unit}" for what in ("limit", "remaining", "reset"))
    for unit in ("requests", "tokens")
}

_NOTE_HEADERS = {
    "route": "x-penstock-route-reason",
    "optimized": "x-penstock-optimized",
    "dropped": "x-penstock-dropped",
}


def call_headers(report: Report) -> list[tuple[str, str]]:
    headers = [
        ("x-penstock-model", report.model),
        ("x-penstock-provider", report.provider),
        ("x-penstock-cache", report.cache),
        ("x-penstock-attempts", str(report.attempts)),
        ("openai-processing-ms", str(round(report.latency_ms))),
    ]
    if report.cost_nanousd is not None:
        headers.append(("x-penstock-cost-usd", format_usd(report.cost_nanousd)))
    for name, value in report.notes:
        headers.append((_NOTE_HEADERS[name], value))
    return headers + limit_headers(report.remaining)


def limit_headers(remaining: tuple[Remaining, ...]) -> list[tuple[str, str]]:
    """Returns OpenAI's `x-ratelimit-*`: the limit on requests, and the one on tokens, with the least left."""
    tightest: dict[str, Remaining] = {}  # by unit
    for row in remaining:
        found = tightest.get(row.unit)
        if found is None or row.left < found.left:
            tightest[row.unit] = row
    headers: list[tuple[str, str]] = []
    for unit, (limit, left, reset) in _LIMIT_NAMES.items():
        if unit in tightest:
            row = tightest[unit]
            headers += ((limit, str(row.most)), (left, str(row.left)), (reset, duration(row.reset_s)))
    return headers


def duration(seconds: float) -> str:
    """Returns a duration as OpenAI writes it: `12ms`, `1.5s`, `6m0s`, `3h0m0s`."""
    if seconds < 1:
        return f"{max(round(seconds * 1000), 0)}ms"
    if seconds < 60:
        return f"{seconds:.3f}".rstrip("0").rstrip(".") + "s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s"

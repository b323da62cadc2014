"""What a model call tells in headers, in the names and units that OpenAI's clients know."""

from __future__ import annotations

from app.domain.money import usd
from app.gateway.admission import Remaining
from app.gateway.books import Report

_NOTES = {"route": "x-penstock-route-reason", "optimized": "x-penstock-optimized"}


def call_headers(report: Report) -> list[tuple[str, str]]:
    headers = [
        ("x-penstock-model", report.model),
        ("x-penstock-provider", report.provider),
        ("x-penstock-cache", report.cache),
        ("x-penstock-attempts", str(report.attempts)),
        ("openai-processing-ms", str(round(report.latency_ms))),
    ]
    if report.cost_nanousd is not None:
        headers.append(("x-penstock-cost-usd", usd(report.cost_nanousd)))
    for name, value in report.notes:
        headers.append((_NOTES[name], value))
    return headers + limit_headers(report.remaining)


def limit_headers(remaining: tuple[Remaining, ...]) -> list[tuple[str, str]]:
    """OpenAI's `x-ratelimit-*`, of the limit on requests and of the one on tokens that will bite first."""
    headers: list[tuple[str, str]] = []
    for unit in ("requests", "tokens"):
        tightest = _tightest(remaining, unit)
        if tightest is not None:
            headers += (
                (f"x-ratelimit-limit-{unit}", str(tightest.most)),
                (f"x-ratelimit-remaining-{unit}", str(tightest.left)),
                (f"x-ratelimit-reset-{unit}", duration(tightest.reset_s)),
            )
    return headers


def _tightest(remaining: tuple[Remaining, ...], unit: str) -> Remaining | None:
    """The limit on `unit` that will bite first: the one with the least left."""
    rows = [row for row in remaining if row.unit == unit]
    return min(rows, key=lambda row: row.left) if rows else None


def duration(seconds: float) -> str:
    """As OpenAI writes it: `12ms`, `1.5s`, `6m0s`, `3h0m0s`."""
    if seconds < 1:
        return f"{max(round(seconds * 1000), 0)}ms"
    if seconds < 60:
        return f"{seconds:.3f}".rstrip("0").rstrip(".") + "s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s"

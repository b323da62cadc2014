"""Timestamps as operators write them: a date, an ISO date and time, or a distance from now."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_UNITS_S = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_YEAR_9999 = 253_370_764_800


def parse_timestamp(text: str, *, now: float, direction: int) -> float:
    """Returns the Unix seconds of a date, an ISO date and time (UTC unless it says otherwise), or a distance as `7d`.

    A distance counts from `now`, into the past or the future as `direction` is -1 or 1. Raises `ValueError`.
    """
    distance = re.fullmatch(r"(\d{1,9})([mhdw])", text)
    if distance:
        seconds = now + direction * int(distance[1]) * _UNITS_S[distance[2]]
    else:
        try:
            when = datetime.fromisoformat(text)
        except ValueError:
            expected = "2026-11-01, 2026-11-01T12:00:00Z, 7d or 24h"
            raise ValueError(f"expected {expected}, not {text[:100]!r}") from None
        seconds = when.timestamp() if when.tzinfo else when.replace(tzinfo=UTC).timestamp()
    if not 0 <= seconds < _YEAR_9999:
        raise ValueError(f"{text[:100]} is out of range")
    return seconds

"""A plan's limits, and the counters of one key that they bind at a given time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from app.config.gateway import Plan
from app.domain.limits import LIMITS, Counter, Limit
from app.domain.money import parse_usd
from app.store.redis.keys import limit_key

_MINUTE_MS = 60_000
_DAY_MS = 86_400_000
# How long a window's counter outlives its window, so that late settlements still find it.
_GRACE_MS = 2 * _DAY_MS


@dataclass(frozen=True, slots=True)
class BoundLimit:
    """A row with a plan's number: `most` in the row's unit (budgets in nano-dollars)."""

    limit: Limit
    most: int


def bind(plan: Plan) -> tuple[BoundLimit, ...]:
    """Returns the rows that `plan` sets, in the table's order."""
    bound = []
    for limit in LIMITS:
        value = getattr(plan, limit.name)
        if value is not None:
            bound.append(BoundLimit(limit, parse_usd(value) if limit.unit == "nanousd" else int(value)))
    return tuple(bound)


def counters(bound: tuple[BoundLimit, ...], key_id: str, now: float) -> tuple[Counter, ...]:
    """Returns the counters of one key at `now` (Unix seconds): right until the UTC day ends."""
    day = datetime.fromtimestamp(now, UTC)
    rows = []
    for row in bound:
        limit = row.limit
        key = limit_key(key_id, limit.name)
        if limit.period == "minute":
            rows.append(Counter.of(limit, row.most, key, _MINUTE_MS))
            continue
        ends = window_end(limit.period, day)
        window = f"{day:%Y-%m-%d}" if limit.period == "day" else f"{day:%Y-%m}"
        kept_ms = int((ends - now) * 1000) + _GRACE_MS
        rows.append(Counter.of(limit, row.most, f"{key}:{window}", kept_ms, ends))
    return tuple(rows)


def day_start(now: datetime) -> float:
    """Returns when the UTC day of `now` began, in Unix seconds."""
    return now.replace(hour=0, minute=0, second=0, microsecond=0).timestamp()


def window_end(period: str, now: datetime) -> float:
    """Returns when the UTC day or month of `now` ends, in Unix seconds."""
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "day":
        return (midnight + timedelta(days=1)).timestamp()
    return (midnight.replace(day=1) + timedelta(days=32)).replace(day=1).timestamp()

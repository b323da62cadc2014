"""The limits a plan can name, as rows, and what one call asks of each.

To add a limit: a field in `config.gateway.Plan` and a row here. The scripts know only two kinds: `gcra` (a rate with
a burst) and `window` (a UTC day or month).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from app.config.gateway import Plan
from app.domain.money import parse_usd
from app.store.redis.keys import limit_key

_MINUTE_MS = 60_000
_DAY_MS = 86_400_000
# How long a window's counter outlives its window, so that late settlements still find it.
_GRACE_MS = 2 * _DAY_MS


class Amounts(NamedTuple):
    """What one call counts for, in each unit."""

    requests: int = 1
    tokens: int = 0
    nanousd: int = 0


@dataclass(frozen=True, slots=True)
class Limit:
    """One row: `name` is the plan's field, the metric label and the word in the refusal."""

    name: str
    unit: str  # a field of `Amounts`
    period: str  # minute | day | month

    @property
    def kind(self) -> str:
        return "gcra" if self.period == "minute" else "window"

    @property
    def counts_cached(self) -> bool:
        """A cached answer is a request, but uses no tokens and costs nothing."""
        return self.unit == "requests"

    @property
    def index(self) -> int:
        """Where the unit is in `Amounts`."""
        return Amounts._fields.index(self.unit)


LIMITS = (
    Limit("requests_per_minute", "requests", "minute"),
    Limit("tokens_per_minute", "tokens", "minute"),
    Limit("requests_per_day", "requests", "day"),
    Limit("tokens_per_day", "tokens", "day"),
    Limit("requests_per_month", "requests", "month"),
    Limit("tokens_per_month", "tokens", "month"),
    Limit("budget_usd_per_day", "nanousd", "day"),
    Limit("budget_usd_per_month", "nanousd", "month"),
)


@dataclass(frozen=True, slots=True)
class BoundLimit:
    """A row with a plan's number: `most` in the row's unit (budgets in nano-dollars)."""

    limit: Limit
    most: int


@dataclass(frozen=True, slots=True)
class Counter:
    """A bound limit of one key, now: its Redis key, and when its window ends (Unix seconds; 0 for a rate)."""

    limit: Limit
    most: int
    key: str
    kind: str
    period_ms: int  # GCRA: the period. Windows: how long the counter is kept
    ends: float
    index: int  # of the limit's unit in `Amounts`
    sent: tuple[str, str]  # `most` and `period_ms`, as they go to Redis

    def seconds_left(self, now: float) -> float:
        return max(self.ends - now, 0.0)


def bind(plan: Plan) -> tuple[BoundLimit, ...]:
    """The rows that `plan` sets, in the table's order."""
    bound = []
    for limit in LIMITS:
        value = getattr(plan, limit.name)
        if value is not None:
            bound.append(BoundLimit(limit, parse_usd(value) if limit.unit == "nanousd" else int(value)))
    return tuple(bound)


def counter(limit: Limit, most: int, key: str, period_ms: int, ends: float) -> Counter:
    return Counter(limit, most, key, limit.kind, period_ms, ends, limit.index, (str(most), str(period_ms)))


def counters(bound: tuple[BoundLimit, ...], key_id: str, now: float) -> tuple[Counter, ...]:
    """The counters of one key at `now` (Unix seconds): right until the UTC day ends."""
    day = datetime.fromtimestamp(now, UTC)
    rows = []
    for row in bound:
        limit = row.limit
        key = limit_key(key_id, limit.name)
        if limit.period == "minute":
            rows.append(counter(limit, row.most, key, _MINUTE_MS, 0.0))
            continue
        ends = window_end(limit.period, day)
        window = f"{day:%Y-%m-%d}" if limit.period == "day" else f"{day:%Y-%m}"
        kept_ms = int((ends - now) * 1000) + _GRACE_MS
        rows.append(counter(limit, row.most, f"{key}:{window}", kept_ms, ends))
    return tuple(rows)


def day_start(now: datetime) -> float:
    """When the UTC day of `now` began, in Unix seconds."""
    return now.replace(hour=0, minute=0, second=0, microsecond=0).timestamp()


def window_end(period: str, now: datetime) -> float:
    """When the UTC day or month of `now` ends, in Unix seconds."""
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "day":
        return (midnight + timedelta(days=1)).timestamp()
    return (midnight.replace(day=1) + timedelta(days=32)).replace(day=1).timestamp()

"""The limits a plan can name, as rows, and the counters that hold a key's calls to them.

To add a limit: a field in `config.gateway.Plan` and a row here. The scripts know only two kinds: `gcra` (a rate with
a burst) and `window` (a UTC day or month).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Amounts(NamedTuple):
    """The amounts that one call counts for, in each unit."""

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
        """Says that a cached answer counts too: it is a request, but uses no tokens and costs nothing."""
        return self.unit == "requests"

    @property
    def index(self) -> int:
        """The unit's place in `Amounts`."""
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
LIMITS_BY_NAME = {limit.name: limit for limit in LIMITS}


@dataclass(frozen=True, slots=True)
class Counter:
    """A limit of one key, now: its Redis key, and when its window ends (Unix seconds; 0 for a rate).

    `most` is in the limit's unit (budgets in nano-dollars). `kind` and `index` are the limit's, and `script_args` are
    `most` and `period_ms` as they go to Redis: worked out once a day instead of with every call.
    """

    limit: Limit
    most: int
    key: str
    kind: str
    period_ms: int  # GCRA: the period. Windows: how long the counter is kept
    ends: float
    index: int
    script_args: tuple[str, str]

    @classmethod
    def of(cls, limit: Limit, most: int, key: str, period_ms: int, ends: float = 0.0) -> Counter:
        return cls(limit, most, key, limit.kind, period_ms, ends, limit.index, (str(most), str(period_ms)))

    def seconds_left(self, now: float) -> float:
        return max(self.ends - now, 0.0)

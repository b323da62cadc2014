"""Usage reports: whole days from the daily roll-up, the ends of a range from the rows; a year costs as little as a day.

The roll-up has days, keys, models and providers. Users, sessions, agents, endpoints and tenants are only in the rows,
which are never deleted: such a report reads every call of its range, and is exact for any range.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache
from typing import Any, Literal, get_args

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from app.domain.money import format_usd
from app.store.sql.tables import api_keys, usage, usage_daily

Grouping = Literal["model", "key", "day", "provider", "user", "endpoint", "tenant", "session", "agent"]
GROUPINGS: tuple[Grouping, ...] = get_args(Grouping)
COUNTS = ("calls", "errors", "prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens")
_ROLL_UP_COLUMNS: dict[str, sa.Column[Any]] = {
    "model": usage_daily.c.model,
    "key": usage_daily.c.key_id,
    "day": usage_daily.c.day,
    "provider": usage_daily.c.provider,
}
_DAY_S = 86_400
_EPOCH = date(1970, 1, 1)
_SUMS = (*COUNTS, "cost_nanousd")


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageTotals:
    """Sums over the calls of one `group`: a model, key id, UTC day, … `errors` are calls that failed or were lost.

    The group is "" for calls without one: without a user or session, or for which no provider was asked.
    """

    group: str
    name: str = ""  # of the key, when grouped by key and it is in the database
    calls: int
    errors: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    cost_nanousd: int

    @property
    def cost_usd(self) -> str:
        """Exact, as in "0.0015"."""
        return format_usd(self.cost_nanousd)

    def to_dict(self, by: Grouping) -> dict[str, str | int]:
        """Returns the fields of a report: the group under the name of the grouping, and `name` for keys."""
        name = {"name": self.name} if by == "key" else {}
        return {by: self.group, **name, **{count: getattr(self, count) for count in COUNTS}, "cost_usd": self.cost_usd}


def usage_report(
    connection: Connection,
    by: Grouping,
    *,
    since: float | None = None,
    until: float | None = None,
    limit: int | None = None,
    offset: int = 0,
) -> list[UsageTotals]:
    """Returns totals for `since` ≤ start of the call < `until` (Unix seconds), at most `limit`.

    Days are in order, other groups by falling cost.
    """
    parts = _parts(by, since, until)
    if not parts:
        return []
    united = sa.union_all(*parts).subquery()
    group = united.c.group
    sums = {name: sa.func.sum(united.c[name]).label(name) for name in _SUMS}
    found: sa.FromClause = united
    grouped, name = [group], sa.literal("").label("name")
    if by == "key":
        found = united.outerjoin(api_keys, api_keys.c.key_id == group)
        grouped, name = [group, api_keys.c.name], sa.func.coalesce(api_keys.c.name, "").label("name")
    query = sa.select(group, name, *sums.values()).select_from(found).group_by(*grouped)
    falling = () if by == "day" else (sums["cost_nanousd"].desc(), sums["calls"].desc())
    query = query.order_by(*falling, group).limit(limit).offset(offset)
    return [
        # PostgreSQL sums integers into decimals.
        UsageTotals(group=row.group, name=row.name, **{name: int(getattr(row, name)) for name in _SUMS})
        for row in connection.execute(query)
    ]


def total(groups: list[UsageTotals]) -> UsageTotals:
    """Returns the sum of `groups`, as a group "total"."""
    return UsageTotals(group="total", **{name: sum(getattr(group, name) for group in groups) for name in _SUMS})


def day_of(ts: float) -> str:
    """Returns the UTC day of `ts` (Unix seconds), as in "2026-11-20"."""
    return _iso_day(int(ts // _DAY_S))


@lru_cache(maxsize=1024)
def _iso_day(number: int) -> str:
    return (_EPOCH + timedelta(days=number)).isoformat()


def _parts(by: Grouping, since: float | None, until: float | None) -> list[Any]:
    """Returns the SELECTs that make up the range: one for whole days, one for the rest at either end."""
    if since is not None and until is not None and since >= until:
        return []
    if by not in _ROLL_UP_COLUMNS:
        return [_rows(by, since, until)]
    first = None if since is None else math.ceil(since / _DAY_S)  # first and last whole day, as day numbers;
    after = None if until is None else math.floor(until / _DAY_S)  # `after` is the first that is not whole
    if first is not None and after is not None and first > after:
        return [_rows(by, since, until)]
    parts = [_days(by, first, after)]
    if since is not None and first is not None and since < first * _DAY_S:
        parts.append(_rows(by, since, first * _DAY_S))
    if until is not None and after is not None and after * _DAY_S < until:
        parts.append(_rows(by, after * _DAY_S, until))
    return parts


def _days(by: Grouping, first: int | None, after: int | None) -> Any:
    group = _ROLL_UP_COLUMNS[by]
    sums = [sa.func.sum(usage_daily.c[name]).label(name) for name in _SUMS]
    query = sa.select(group.label("group"), *sums).group_by(group)
    if first is not None:
        query = query.where(usage_daily.c.day >= _iso_day(first))
    if after is not None:
        query = query.where(usage_daily.c.day < _iso_day(after))
    return query


def _rows(by: Grouping, since: float | None, until: float | None) -> Any:
    """Returns a SELECT over the rows of a range; by day, the range is always a part of one day."""
    failed = sa.case((usage.c.status.in_(("error", "lost")), 1), else_=0)
    sums = [sa.func.sum(usage.c[name]).label(name) for name in _SUMS[2:]]
    counts = [sa.func.count().label("calls"), sa.func.sum(failed).label("errors")]
    group = sa.literal(day_of(since or 0)) if by == "day" else usage.c["key_id" if by == "key" else by]
    query = sa.select(group.label("group"), *counts, *sums)
    if since is not None:
        query = query.where(usage.c.ts >= since)
    if until is not None:
        query = query.where(usage.c.ts < until)
    # Grouping by a literal is refused by PostgreSQL; without groups, an empty range would give a line of nothing.
    return query.having(sa.func.count() > 0) if by == "day" else query.group_by(group)

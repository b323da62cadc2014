"""Usage reports: whole days from the roll-up, the ends of a range from the rows; a year costs as little as a day."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from app.domain.money import usd
from app.store.tables import api_keys, usage, usage_daily

Grouping = Literal["model", "key", "day"]
_DAY_S = 86_400
_EPOCH = date(1970, 1, 1)
_SUMS = (
    "calls", "errors", "prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens", "cost_nanousd",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageLine:
    """Sums over the calls of one model, key (its id) or UTC day. `errors` are calls that failed or were lost."""

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
        return usd(self.cost_nanousd)


def usage_report(
    connection: Connection, by: Grouping, *, since: float | None = None, until: float | None = None
) -> list[UsageLine]:
    """Lines for `since` ≤ start of the call < `until`: days in order, others by falling cost."""
    parts = _parts(by, since, until)
    if not parts:
        return []
    united = sa.union_all(*parts).subquery()
    sums = [sa.func.sum(united.c[name]).label(name) for name in _SUMS]
    query = sa.select(united.c.group, *sums).group_by(united.c.group)
    names = {}
    if by == "key":
        names = {row.key_id: row.name for row in connection.execute(sa.select(api_keys.c.key_id, api_keys.c.name))}
    lines = [
        # PostgreSQL sums integers into decimals.
        UsageLine(group=row.group, name=names.get(row.group, ""), **{name: int(getattr(row, name)) for name in _SUMS})
        for row in connection.execute(query)
    ]
    if by == "day":
        return sorted(lines, key=lambda line: line.group)
    return sorted(lines, key=lambda line: (-line.cost_nanousd, -line.calls, line.group))


def day_of(ts: float) -> str:
    """The UTC day of `ts` (Unix seconds), as in "2026-11-20"."""
    return _iso_day(int(ts // _DAY_S))


@lru_cache(maxsize=1024)
def _iso_day(number: int) -> str:
    return (_EPOCH + timedelta(days=number)).isoformat()


def _parts(by: Grouping, since: float | None, until: float | None) -> list[Any]:
    """The SELECTs that make up the range: whole days, and what sticks out at either end."""
    if since is not None and until is not None and since >= until:
        return []
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
    group = {"model": usage_daily.c.model, "key": usage_daily.c.key_id, "day": usage_daily.c.day}[by]
    sums = [sa.func.sum(usage_daily.c[name]).label(name) for name in _SUMS]
    query = sa.select(group.label("group"), *sums).group_by(group)
    if first is not None:
        query = query.where(usage_daily.c.day >= _iso_day(first))
    if after is not None:
        query = query.where(usage_daily.c.day < _iso_day(after))
    return query


def _rows(by: Grouping, since: float | None, until: float | None) -> Any:
    """Only ever asked for a part of one day."""
    day = sa.literal(day_of(since or 0)).label("group")
    failed = sa.case((usage.c.status.in_(("error", "lost")), 1), else_=0)
    sums = [sa.func.sum(usage.c[name]).label(name) for name in _SUMS[2:]]
    counts = [sa.func.count().label("calls"), sa.func.sum(failed).label("errors")]
    group = {"model": usage.c.model.label("group"), "key": usage.c.key_id.label("group"), "day": day}[by]
    query = sa.select(group, *counts, *sums).where(usage.c.ts >= since, usage.c.ts < until)
    # Grouping by a literal is refused by PostgreSQL; without groups, an empty range would give a line of nothing.
    return query.having(sa.func.count() > 0) if by == "day" else query.group_by(group)

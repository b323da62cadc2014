"""The ledger: every call is one row, written exactly once, and the daily roll-up always equals the rows.

A row whose call id comes again is ignored; only a real row replaces one whose status is `lost`, because a worker
that was merely stalled settles after the reaper declared its call lost. Rows and roll-up change in one transaction,
the roll-up by differences. A row that cannot be read goes to `dead_letter` and the others are written.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
import sqlalchemy as sa
import structlog
from msgspec.structs import asdict
from sqlalchemy.engine import Connection

from app.domain.charges import ChargedAttempt
from app.errors import StoreUnavailable
from app.store.reports import Grouping, UsageTotals, day_of, total, usage_report
from app.store.sql.database import Database, id_chunks
from app.store.sql.tables import dead_letter, usage, usage_attempts, usage_daily

log = structlog.get_logger()

# A bound on each number keeps the sums inside 64 bits; a call beyond it is not a call.
_Tokens = Annotated[int, msgspec.Meta(ge=0, le=10**12)]
_Money = Annotated[int, msgspec.Meta(ge=0, le=10**15)]
_Small = Annotated[int, msgspec.Meta(ge=0, le=10**6)]
_Milliseconds = Annotated[float, msgspec.Meta(ge=0, le=10**12)]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]  # short enough for any index
_YEAR_9999 = 253_402_300_799

Status = Literal["ok", "error", "aborted", "lost"]
_FAILED = ("error", "lost")
_DEAD_LETTERS_KEPT = 10_000
_DEAD_LETTER_CHARS = 16_384


class UsageRow(msgspec.Struct, frozen=True, kw_only=True):
    """One call, as a worker or the reaper wrote it into the outbox. `ts` is when it began, in Unix seconds.

    `call_id` is ours and unique; `request_id` may be the client's own, and stands in where there is no call id.
    """

    request_id: _Name
    call_id: Annotated[str, msgspec.Meta(max_length=256)] = ""
    ts: Annotated[float, msgspec.Meta(ge=0, le=_YEAR_9999)]
    key_id: _Name
    model: _Name
    status: Status
    user: str = ""
    tenant: str = ""
    provider: Annotated[str, msgspec.Meta(max_length=256)] = ""
    upstream_model: str = ""
    endpoint: str = "chat.completions"
    http_status: _Small = 0
    prompt_tokens: _Tokens = 0
    completion_tokens: _Tokens = 0
    cached_tokens: _Tokens = 0
    reasoning_tokens: _Tokens = 0
    cost_nanousd: _Money = 0
    latency_ms: _Milliseconds = 0.0
    ttft_ms: _Milliseconds | None = None
    attempts: _Small = 0
    cache: str = "bypass"
    streamed: bool = False
    estimated: bool = False
    unpriced: bool = False
    job_id: str | None = None
    tags: str = ""
    service_tier: Annotated[str, msgspec.Meta(max_length=64)] = ""
    cache_write_tokens: _Tokens = 0
    cache_write_1h_tokens: _Tokens = 0
    audio_prompt_tokens: _Tokens = 0
    audio_cached_tokens: _Tokens = 0
    audio_completion_tokens: _Tokens = 0
    image_prompt_tokens: _Tokens = 0
    image_cached_tokens: _Tokens = 0
    image_completion_tokens: _Tokens = 0
    video_prompt_tokens: _Tokens = 0
    video_completion_tokens: _Tokens = 0
    citation_tokens: _Tokens = 0
    searches: _Tokens = 0
    audio_seconds: _Tokens = 0
    charged_attempts: list[ChargedAttempt] = msgspec.field(default_factory=list)  # see `tables.usage_attempts`

    def __post_init__(self) -> None:
        if not self.call_id:
            msgspec.structs.force_setattr(self, "call_id", self.request_id)


# Not strict: Lua may write 1000000000000000 as 1e+15, and a bill must not be lost over notation.
_DECODER = msgspec.json.Decoder(UsageRow, strict=False)
_COLUMNS = tuple(column.name for column in usage.columns)
_SUMMED = ("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens", "cost_nanousd")
_OLD = tuple(usage.c[name] for name in ("call_id", "status", "ts", "key_id", "model", "provider", *_SUMMED))
_Deltas = dict[tuple[str, str, str, str], list[int]]


class Ledger:
    """Writes rows and reports usage. Methods raise `StoreUnavailable`. `clock` is in Unix seconds."""

    def __init__(self, *, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock
        self._reporting = threading.Lock()

    def write(self, rows: Sequence[UsageRow | Mapping[str, Any] | bytes]) -> int:
        """Writes `rows` (parsed, or JSON) in one transaction; returns how many were new or replaced a lost one.

        Raises `StoreUnavailable`; nothing is written then, and all of it can be written again.
        """
        good: dict[str, UsageRow] = {}
        dead: list[tuple[bytes, str]] = []
        for row in rows:
            try:
                parsed = _parsed(row)
            except (ValueError, RecursionError) as exc:  # not JSON, not UTF-8, not a row, or nested too deep
                dead.append((row if isinstance(row, bytes) else repr(row).encode(errors="replace"), str(exc)))
                continue
            before = good.get(parsed.call_id)
            if before is None or _replaces(parsed.status, before.status):
                good[parsed.call_id] = parsed
        with self._database.write() as connection:
            written = self._write(connection, good)
            self._set_aside(connection, dead)
        for raw, reason in dead:
            log.error("ledger_row_set_aside", reason=reason, size_bytes=len(raw))
        return written

    def usage(self, by: Grouping, *, since: float | None = None, until: float | None = None) -> list[UsageTotals]:
        """Returns the usage of each model, key, user, …, from `since` up to and without `until` (Unix seconds)."""
        with self._database.read() as connection:
            return usage_report(connection, by, since=since, until=until)

    def usage_page(
        self,
        by: Grouping,
        *,
        since: float | None = None,
        until: float | None = None,
        limit: int,
        offset: int = 0,
        timeout_s: float = 10.0,
    ) -> tuple[list[UsageTotals], UsageTotals]:
        """Returns groups `offset` to `offset` + `limit` of `usage`, and the sum of all groups.

        One report at a time, since SQLite's threads are few: calls must not wait for reports. Raises `StatementTimeout`
        after `timeout_s`, `StoreUnavailable` when another report takes that long.
        """
        if not self._reporting.acquire(timeout=timeout_s):
            raise StoreUnavailable("Another usage report is being made.", retry_after_s=5)
        try:
            with self._database.read(timeout_s) as connection:
                groups = usage_report(connection, by, since=since, until=until, limit=limit, offset=offset)
                # By day: there are few days, and they come from the roll-up.
                return groups, total(usage_report(connection, "day", since=since, until=until))
        finally:
            self._reporting.release()

    def find_rows(self, call_ids: Sequence[str]) -> dict[str, UsageRow]:
        """Returns the rows of these calls, without `charged_attempts`."""
        columns = [column for column in usage.columns if column.name in UsageRow.__struct_fields__]
        found: dict[str, UsageRow] = {}
        with self._database.read() as connection:
            for chunk in id_chunks(call_ids):
                for row in connection.execute(sa.select(*columns).where(usage.c.call_id.in_(chunk))):
                    found[row.call_id] = UsageRow(**row._mapping)
        return found

    def count_dead_letters(self) -> int:
        """Returns the number of unreadable rows, which are kept for a human."""
        with self._database.read() as connection:
            return connection.scalar(sa.select(sa.func.count()).select_from(dead_letter)) or 0

    def _write(self, connection: Connection, rows: dict[str, UsageRow]) -> int:
        known = {old.call_id: old for old in _known(connection, list(rows))}
        deltas: _Deltas = {}
        new, replaced = [], []
        for row in rows.values():
            old = known.get(row.call_id)
            values = {name: getattr(row, name) for name in _COLUMNS}
            if old is None:
                new.append(values)
            elif _replaces(row.status, old.status):
                replaced.append({**values, "_id": row.call_id})
                _count(deltas, old, -1)
            else:
                continue
            _count(deltas, row, 1)
        if new:
            connection.execute(usage.insert(), new)
        if replaced:
            changed: dict[str, Any] = {name: sa.bindparam(name) for name in _COLUMNS}
            one = usage.c.call_id == sa.bindparam("_id")
            connection.execute(usage.update().where(one).values(changed), replaced)
            gone = usage_attempts.c.call_id == sa.bindparam("_id")
            connection.execute(usage_attempts.delete().where(gone), [{"_id": values["_id"]} for values in replaced])
        attempts = [row for values in (*new, *replaced) for row in _attempts(rows[values["call_id"]])]
        if attempts:
            connection.execute(usage_attempts.insert(), attempts)
        self._roll_up(connection, deltas)
        return len(new) + len(replaced)

    def _roll_up(self, connection: Connection, deltas: _Deltas) -> None:
        if not deltas:
            return
        names = [column.name for column in usage_daily.columns]
        insert = self._database.insert(usage_daily)
        upsert = insert.on_conflict_do_update(
            index_elements=list(usage_daily.primary_key),
            set_={name: usage_daily.c[name] + insert.excluded[name] for name in names[4:]},
        )
        # Always in the same order: two writers on PostgreSQL cannot deadlock then.
        connection.execute(upsert, [dict(zip(names, (*key, *deltas[key]), strict=True)) for key in sorted(deltas)])
        if any(delta[0] < 0 for delta in deltas.values()):
            days = sorted({key[0] for key in deltas})
            connection.execute(usage_daily.delete().where(usage_daily.c.day.in_(days), usage_daily.c.calls == 0))

    def _set_aside(self, connection: Connection, dead: list[tuple[bytes, str]]) -> None:
        if not dead:
            return
        insert = self._database.insert(dead_letter).on_conflict_do_nothing(index_elements=["digest"])
        now = self._clock()
        connection.execute(
            insert,
            [
                {"digest": hashlib.sha256(raw).hexdigest(), "ts": now, "reason": reason[:500], "row": _printable(raw)}
                for raw, reason in dead
            ],
        )
        kept = connection.scalar(sa.select(sa.func.count()).select_from(dead_letter)) or 0
        excess = kept - _DEAD_LETTERS_KEPT
        if excess > 0:
            oldest = sa.select(dead_letter.c.digest).order_by(dead_letter.c.ts).limit(excess)
            connection.execute(dead_letter.delete().where(dead_letter.c.digest.in_(oldest)))


def readable(row: bytes) -> UsageRow | None:
    """Returns the row; None when `write` would set it aside."""
    try:
        return _parsed(row)
    except (ValueError, RecursionError):
        return None


def _parsed(row: UsageRow | Mapping[str, Any] | bytes) -> UsageRow:
    if isinstance(row, UsageRow):
        return row
    if not isinstance(row, bytes):
        row = msgspec.json.encode(row)
    parsed = _DECODER.decode(row)
    # PostgreSQL has no NUL in text, and the call is worth more than the character.
    if b"\\u0000" in row:
        clean = {k: v.replace("\0", "\ufffd") for k, v in asdict(parsed).items() if isinstance(v, str)}
        return msgspec.structs.replace(parsed, **clean)
    return parsed


def _replaces(status: str, old_status: str) -> bool:
    return old_status == "lost" and status != "lost"


def _attempts(row: UsageRow) -> Iterator[dict[str, Any]]:
    for number, charged in enumerate(row.charged_attempts, 1):
        yield {"call_id": row.call_id, "attempt": number, **charged._asdict()}


def _known(connection: Connection, ids: list[str]) -> Iterator[Any]:
    for chunk in id_chunks(ids):
        # Locked, lest two ledger processes both replace one lost row and count it twice; SQLite has one writer.
        yield from connection.execute(sa.select(*_OLD).where(usage.c.call_id.in_(chunk)).with_for_update())


def _count(deltas: _Deltas, row: Any, sign: int) -> None:
    """Adds `row` to the deltas (subtracts it, with `sign` -1), in the order of the roll-up's columns."""
    delta = deltas.setdefault((day_of(row.ts), row.key_id, row.model, row.provider), [0, 0, 0, 0, 0, 0, 0])
    delta[0] += sign
    delta[1] += sign if row.status in _FAILED else 0
    delta[2] += sign * row.prompt_tokens
    delta[3] += sign * row.completion_tokens
    delta[4] += sign * row.cached_tokens
    delta[5] += sign * row.reasoning_tokens
    delta[6] += sign * row.cost_nanousd


def _printable(raw: bytes) -> str:
    return raw[:_DEAD_LETTER_CHARS].decode("utf-8", "replace").replace("\0", "\ufffd")

from __future__ import annotations

import itertools
import json
import threading
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from app.domain.usage import Details
from app.errors import StoreUnavailable
from app.store import ledger as ledger_module
from app.store.ledger import Ledger
from app.store.reports import GROUPINGS
from app.store.sql.database import Database
from app.store.sql.tables import api_keys, dead_letter, usage, usage_daily

NOON = 1_793_534_400.0  # 2026-11-01T12:00:00Z
DAY = 86_400.0
SUMS = ("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens", "cost_nanousd")


def row(request_id: str = "req_1", **changes: Any) -> dict[str, Any]:
    return {
        "call_id": request_id,
        "request_id": request_id,
        "ts": NOON,
        "key_id": "key_1",
        "user": "",
        "tenant": "",
        "model": "fast",
        "provider": "demo",
        "upstream_model": "demo-1",
        "endpoint": "chat.completions",
        "status": "ok",
        "http_status": 200,
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "cached_tokens": 2,
        "reasoning_tokens": 1,
        "cost_nanousd": 1500,
        "latency_ms": 12.5,
        "ttft_ms": None,
        "attempts": 1,
        "cache": "miss",
        "streamed": False,
        "estimated": False,
        "unpriced": False,
        "job_id": None,
        "tags": "",
        "service_tier": "",
        **dict.fromkeys(Details._fields, 0),
        **dict.fromkeys(("inference_geo", "price_version", "session", "agent"), ""),
        "reported_cost_nanousd": None,
        "computed_cost_nanousd": None,
        **changes,
    }


@pytest.fixture
def ledger(database: Database) -> Ledger:
    return Ledger(database=database, clock=lambda: NOON)


def all_of(database: Database, table: sa.Table) -> list[dict[str, Any]]:
    with database.read() as connection:
        return [dict(found._mapping) for found in connection.execute(sa.select(table))]


def rolled_up(rows: list[dict[str, Any]]) -> dict[tuple[str, ...], tuple[int, ...]]:
    """Returns the expected roll-up, computed from the rows in another way than the ledger does."""
    with_day = [{**r, "day": f"2026-11-{1 + int((r['ts'] - (NOON - DAY / 2)) // DAY):02}"} for r in rows]
    names = ("day", "key_id", "model", "provider")
    order = sorted(with_day, key=lambda r: [r[name] for name in names])
    sums = {}
    for key, group in itertools.groupby(order, key=lambda r: tuple(r[name] for name in names)):
        members = list(group)
        errors = sum(r["status"] in ("error", "lost") for r in members)
        sums[key] = (len(members), errors, *(sum(r[name] for r in members) for name in SUMS))
    return sums


def roll_up(database: Database) -> dict[tuple[str, ...], tuple[int, ...]]:
    return {tuple(r.values())[:4]: tuple(r.values())[4:] for r in all_of(database, usage_daily)}


def test_a_row_is_stored_as_it_came(database: Database, ledger: Ledger) -> None:
    odd: dict[str, Any] = {"ttft_ms": 3.25, "streamed": True, "unpriced": True, "job_id": "job_1", "status": "aborted"}
    details: dict[str, Any] = {name: place + 1 for place, name in enumerate(Details._fields)}
    sent = row(user="ann", tags='{"team":"a"}', service_tier="flex", **odd, **details)
    sent |= {"inference_geo": "us", "price_version": "v", "session": "s", "agent": "a"}
    sent |= {"reported_cost_nanousd": 8, "computed_cost_nanousd": 9}
    assert ledger.write([json.dumps(sent).encode()]) == 1
    assert all_of(database, usage) == [sent]


def test_calls_to_which_a_client_gave_one_request_id_are_each_counted(database: Database, ledger: Ledger) -> None:
    assert ledger.write([row("mine", call_id="req_1"), row("mine", call_id="req_2")]) == 2
    assert ledger.write([row("mine", call_id="req_2")]) == 0
    assert [(r["call_id"], r["request_id"]) for r in all_of(database, usage)] == [("req_1", "mine"), ("req_2", "mine")]


def test_a_row_that_comes_again_is_ignored(database: Database, ledger: Ledger) -> None:
    assert ledger.write([row(), row(cost_nanousd=9), row("req_2")]) == 2
    assert ledger.write([row(cost_nanousd=99), row("req_2")]) == 0
    assert [r["cost_nanousd"] for r in all_of(database, usage)] == [1500, 1500]
    assert roll_up(database) == rolled_up([row(), row("req_2")])


@pytest.mark.parametrize("batches", [1, 2])
def test_a_real_row_replaces_a_lost_one_and_leaves_no_trace_of_it(
    database: Database, ledger: Ledger, batches: int
) -> None:
    lost = row(status="lost", provider="", ts=NOON - DAY, cost_nanousd=77)
    real = row(status="ok")
    if batches == 1:
        assert ledger.write([lost, real]) == 1
    else:
        assert [ledger.write([lost]), ledger.write([real])] == [1, 1]
    assert all_of(database, usage) == [real]
    assert roll_up(database) == rolled_up([real])


@pytest.mark.parametrize("batches", [1, 2])
def test_a_lost_row_never_replaces_a_real_one(database: Database, ledger: Ledger, batches: int) -> None:
    rows = [row(status="error"), row(status="lost")]
    for batch in [rows] if batches == 1 else [rows[:1], rows[1:]]:
        ledger.write(batch)
    assert all_of(database, usage) == [row(status="error")]


_rows = st.builds(
    row,
    st.sampled_from(["a", "b", "c", "d"]),
    status=st.sampled_from(["ok", "error", "aborted", "lost", "lost"]),
    ts=st.floats(NOON - DAY / 2, NOON + DAY * 2),
    key_id=st.sampled_from(["key_1", "key_2"]),
    model=st.sampled_from(["fast", "smart"]),
    provider=st.sampled_from(["", "demo"]),
    **{name: st.integers(0, 10**9) for name in SUMS},
)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(st.lists(_rows, max_size=6), max_size=6))
def test_for_any_sequence_of_rows_the_roll_up_equals_the_rows(
    database: Database, ledger: Ledger, batches: list[list[dict[str, Any]]]
) -> None:
    with database.write() as connection:
        connection.execute(usage.delete())
        connection.execute(usage_daily.delete())
    expected: dict[str, dict[str, Any]] = {}
    for batch in batches:
        ledger.write(batch)
        for sent in batch:
            kept = expected.setdefault(sent["request_id"], sent)
            if kept["status"] == "lost" and sent["status"] != "lost":
                expected[sent["request_id"]] = sent
    stored = all_of(database, usage)
    assert {r["request_id"]: r for r in stored} == expected
    assert roll_up(database) == rolled_up(stored)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    times=st.lists(st.integers(0, 24), max_size=12),
    since=st.none() | st.integers(-2, 26),
    until=st.none() | st.integers(-2, 26),
)
@example(times=[0, 1, 2, 3], since=1, until=3)  # all within one day
def test_for_any_range_a_report_counts_exactly_the_calls_that_began_in_it(
    database: Database, ledger: Ledger, times: list[int], since: int | None, until: int | None
) -> None:
    def moment(number: int) -> float:
        return NOON + number * DAY / 8  # eighths of a day: on, before and after every midnight

    with database.write() as connection:
        connection.execute(usage.delete())
        connection.execute(usage_daily.delete())
    rows = [
        row(
            f"req_{i}",
            ts=moment(t),
            model=f"m{i % 2}",
            key_id=f"key_{i % 3}",
            provider=f"p{i % 2}",
            user=f"u{i % 4}",
            tenant=f"t{i % 5}",
            endpoint=f"e{i % 2}",
        )
        for i, t in enumerate(times)
    ]
    ledger.write(rows)
    inside = [
        r for r, t in zip(rows, times, strict=True) if (since is None or t >= since) and (until is None or t < until)
    ]
    bounds = {"since": None if since is None else moment(since), "until": None if until is None else moment(until)}
    for by in GROUPINGS:
        lines = {line.group: line for line in ledger.usage(by, **bounds)}
        column = "key_id" if by == "key" else by
        groups = [next(iter(rolled_up([r])))[0] if by == "day" else r[column] for r in inside]
        assert {group: line.calls for group, line in lines.items()} == {g: groups.count(g) for g in set(groups)}
        assert sum(line.cost_nanousd for line in lines.values()) == 1500 * len(inside)


def test_a_report_names_keys_and_gives_the_exact_cost(database: Database, ledger: Ledger) -> None:
    values = {"key_hash": "h", "prefix": "p", "role": "user", "plan": "default", "tenant": ""}
    with database.write() as connection:
        times = {"created_at": 0, "updated_at": 0}
        connection.execute(api_keys.insert(), {"key_id": "key_1", "name": "billing", **values, **times})
    calls = [row("a", cost_nanousd=1), row("b", cost_nanousd=2_000_000_000), row("c", key_id="dev", status="error")]
    ledger.write(calls)
    lines = ledger.usage("key")
    assert [(line.group, line.name, line.calls, line.errors, line.cost_usd) for line in lines] == [
        ("key_1", "billing", 2, 0, "2.000000001"),
        ("dev", "", 1, 1, "0.0000015"),
    ]


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b'{"a":' + b"[" * 100_000,
        json.dumps(row(ts=-1)).encode(),
        json.dumps(row(ts=1e300)).encode(),
        json.dumps(row(status="maybe")).encode(),
        json.dumps(row(prompt_tokens=-1)).encode(),
        json.dumps(row(prompt_tokens=2**70)).encode(),
        json.dumps(row(cost_nanousd=0.5)).encode(),
        json.dumps(row(request_id="")).encode(),
        json.dumps(row(user="\ud800")).encode(),
    ],
    ids=range(14),
)
def test_an_unreadable_row_is_set_aside_once_and_the_others_are_written(
    database: Database, ledger: Ledger, bad: bytes
) -> None:
    batch = [json.dumps(row("before")).encode(), bad, json.dumps(row("after")).encode()]
    assert ledger.write(batch) == 2
    assert ledger.write(batch) == 0
    assert [r["request_id"] for r in all_of(database, usage)] == ["before", "after"]
    (dead,) = all_of(database, dead_letter)
    assert dead["ts"] == NOON
    assert dead["reason"]
    assert dead["row"] == bad[:16_384].decode("utf-8", "replace")


def test_only_the_newest_rows_that_were_set_aside_are_kept(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "_DEAD_LETTERS_KEPT", 3)
    clock = itertools.count()
    ledger = Ledger(database=database, clock=lambda: float(next(clock)))
    for number in range(5):
        ledger.write([b"bad %d" % number])
    assert [dead["row"] for dead in all_of(database, dead_letter)] == ["bad 2", "bad 3", "bad 4"]


def test_a_number_as_lua_writes_it_and_a_nul_character_lose_no_row(database: Database, ledger: Ledger) -> None:
    sent = json.dumps(row(user="a\0b")).replace('"cost_nanousd": 1500', '"cost_nanousd": 1e+15')
    assert ledger.write([sent.encode()]) == 1
    (stored,) = all_of(database, usage)
    assert (stored["user"], stored["cost_nanousd"]) == ("a\ufffdb", 10**15)


def test_fields_of_a_newer_version_are_ignored(database: Database, ledger: Ledger) -> None:
    assert ledger.write([row(some_new_field={"a": 1})]) == 1


def test_two_ledger_processes_at_once_count_nothing_twice(database: Database, tmp_path: Path) -> None:
    rows = [row(f"req_{i}") for i in range(400)]
    written: list[int] = []

    def drain() -> None:
        mine = Database(f"sqlite:///{tmp_path}/ledger.db")
        for start in range(0, 400, 20):
            written.append(Ledger(database=mine).write(rows[start : start + 20]))
        mine.close()

    threads = [threading.Thread(target=drain) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(written) == 400
    assert roll_up(database) == rolled_up(rows)


def test_when_the_database_fails_nothing_of_the_batch_is_written(database: Database, ledger: Ledger) -> None:
    with database.write() as connection:
        connection.exec_driver_sql("ALTER TABLE usage_daily RENAME TO gone")
    with pytest.raises(StoreUnavailable):
        ledger.write([row()])
    assert all_of(database, usage) == []

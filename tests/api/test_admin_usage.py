"""The usage report over HTTP: for administrators, by any dimension, bounded; a mistake names its parameter."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

from app.domain.identity import Role
from app.errors import StoreUnavailable
from app.store.reports import GROUPINGS
from tests.api.conftest import AppClient
from tests.support.response import AppResponse

CONFIG = """
providers: {demo: {kind: demo}}
models: {m: {targets: [{provider: demo}]}}
"""
NOON = 1_793_534_400.0  # 2026-11-01T12:00:00Z
DAY = 86_400
_FIGURES = {
    "calls": 1,
    "errors": 0,
    "prompt_tokens": 10,
    "completion_tokens": 5,
    "cached_tokens": 0,
    "reasoning_tokens": 0,
}


def call(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "request_id": f"r{number}",
        "ts": NOON,
        "key_id": "dev",
        "model": "fast",
        "provider": "p",
        "status": "ok",
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "cost_nanousd": 1500,
        **changes,
    }


class Admin:
    """An application with a ledger of some calls, and a key that may read it."""

    def __init__(self, client: AppClient, *calls: dict[str, Any]) -> None:
        self.edge = client
        self.key, _ = client.services.keys.create("boss", role=Role.ADMIN)
        client.services.ledger.write(calls)

    def get(self, query: str = "", prefix: str = "/v1") -> AppResponse:
        return self.edge.get(f"{prefix}/admin/usage{query}", key=self.key)

    def refused(self, query: str) -> tuple[str, str]:
        answer = self.get(query)
        assert answer.status_code == 400, answer.text
        assert answer.json is not None
        assert answer.json["code"] == "INVALID_REQUEST"
        return answer.json["error"]["param"], answer.json["error"]["message"]


@pytest.fixture
def admin(client_with: Callable[[str], AppClient]) -> Admin:
    return Admin(
        client_with(CONFIG),
        call(1, user="ann", tenant="shop", endpoint="embeddings"),
        call(2, user="ann", ts=NOON + DAY, model="smart", cost_nanousd=2_000_000_000, status="error"),
        call(3, user="=cmd()", ts=NOON + DAY),
        call(4, ts=NOON + DAY),
    )


@pytest.mark.parametrize("prefix", ["/v1", "/api/v1"])
def test_what_each_user_cost_is_told_exactly(admin: Admin, prefix: str) -> None:
    answer = admin.get("?by=user&since=2026-11-01", prefix)
    assert answer.status_code == 200
    two = {name: 2 * value for name, value in _FIGURES.items()}
    assert answer.json == {
        "object": "list",
        "by": "user",
        "since": "2026-11-01T00:00:00Z",
        "until": None,
        "data": [
            {"user": "ann", **two, "errors": 1, "cost_usd": "2.0000015"},
            {"user": "", **_FIGURES, "cost_usd": "0.0000015"},
            {"user": "=cmd()", **_FIGURES, "cost_usd": "0.0000015"},
        ],
        "total": {name: 4 * value for name, value in _FIGURES.items()} | {"errors": 1, "cost_usd": "2.0000045"},
        "has_more": False,
    }


@pytest.mark.parametrize(
    ("by", "groups"),
    [
        ("endpoint", ["chat.completions", "embeddings"]),
        ("tenant", ["", "shop"]),
        ("provider", ["p"]),
        ("day", ["2026-11-01", "2026-11-02"]),
        ("model", ["smart", "fast"]),
        ("key", ["dev"]),
    ],
)
def test_every_dimension_sums_to_the_same_total(admin: Admin, by: str, groups: list[str]) -> None:
    found = admin.get(f"?by={by}").json
    assert found is not None
    assert [line[by] for line in found["data"]] == groups
    assert sum(line["calls"] for line in found["data"]) == found["total"]["calls"] == 4
    assert ("name" in found["data"][0]) == (by == "key")


def test_a_range_cuts_within_days_in_every_dimension(admin: Admin) -> None:
    for by in GROUPINGS:
        found = admin.get(f"?by={by}&since=2026-11-01T12:00:01Z&until=2026-11-02T12:00:01Z").json
        assert found is not None
        assert sum(line["calls"] for line in found["data"]) == found["total"]["calls"] == 3, by


def test_pages_follow_each_other_and_the_total_is_of_all(admin: Admin) -> None:
    path, users = "/v1/admin/usage?by=user&limit=1", []
    for _ in range(3):
        answer = admin.edge.get(path, key=admin.key)
        assert answer.json is not None
        users += [line["user"] for line in answer.json["data"]]
        assert answer.json["total"]["calls"] == 4
        assert answer.json["has_more"] == ("Link" in answer.headers)
        path = answer.headers.get("Link", "").partition(">")[0].lstrip("<")
    assert (users, path) == (["ann", "", "=cmd()"], "")


def test_a_spreadsheet_never_runs_what_a_caller_wrote(admin: Admin) -> None:
    answer = admin.get("?by=user&format=csv&limit=2")
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="usage-by-user.csv"'
    assert 'rel="next"' in answer.headers["Link"], "a table that is cut off says so"
    rows = list(csv.DictReader(io.StringIO(admin.get("?by=user&format=csv").text)))
    assert [(row["user"], row["cost_usd"]) for row in rows] == [
        ("ann", "2.0000015"),
        ("", "0.0000015"),
        ("'=cmd()", "0.0000015"),
    ]


def test_a_report_of_nothing_is_empty(client_with: Callable[[str], AppClient]) -> None:
    admin = Admin(client_with(CONFIG))
    found = admin.get("?by=user").json
    assert found is not None
    assert (found["data"], found["total"]["calls"], found["total"]["cost_usd"]) == ([], 0, "0")
    assert admin.get("?by=key&format=csv").text.startswith("key,name,calls,")


@pytest.mark.parametrize(
    ("query", "param", "words"),
    [
        ("?by=users", "by", "model, key, day, provider, user, endpoint, tenant, session, agent"),
        ("?by=", "by", "Expected one of"),
        ("?by=key_id;drop%20table%20usage", "by", "Expected one of"),
        ("?by=%25", "by", "Expected one of"),
        ("?since=yesterday", "since", "Expected 2026-11-01, 2026-11-01T12:00:00Z, 7d or 24h, not 'yesterday'"),
        ("?since=" + quote("1' or 1=1 --"), "since", "Expected 2026-11-01"),
        ("?since=", "since", "Expected 2026"),
        ("?until=9999-12-31", "until", "9999-12-31 is out of range"),
        ("?since=99999999d", "since", "out of range"),
        ("?since=2026-11-02&until=2026-11-01", "until", "later than `since`"),
        ("?since=1d&until=1d", "until", "later"),
        ("?format=xml", "format", "json, csv"),
        ("?limit=0", "limit", "from 1 to 10000"),
        ("?limit=10001", "limit", "from 1 to 10000"),
        ("?offset=-1", "offset", "a number from 0"),
        ("?offset=99999999999999999999", "offset", "a number from 0"),
        ("?limit=%D9%A3", "limit", "a number"),
        ("?sicne=7d", "sicne", "Unknown parameter, expected one of by, since,"),
        ("?by=user&by=model", "by", "Expected once"),
        ("?" + 200 * "x" + "=1", 64 * "x", "Unknown parameter"),
    ],
)
def test_a_mistake_names_its_parameter(admin: Admin, query: str, param: str, words: str) -> None:
    named, message = admin.refused(query)
    assert named == param
    assert words in message
    assert f"`{param}`" in message
    assert admin.get().status_code == 200


def test_only_an_administrator_reads_it(client_with: Callable[[str], AppClient]) -> None:
    opened = client_with(CONFIG)
    assert opened.get("/v1/admin/usage").status_code == 401
    answer = opened.get("/v1/admin/usage?by=user", key=opened.key)
    assert (answer.status_code, (answer.json or {})["code"]) == (403, "FORBIDDEN")


def test_a_report_that_takes_too_long_is_given_up_and_says_what_to_ask_for(
    admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin.edge.services.ledger.write([call(n, user=f"u{n}") for n in range(10, 3000)])
    monkeypatch.setattr("app.api.admin._REPORT_TIMEOUT_S", 0.0)
    monkeypatch.setattr("app.store.sql.database._STEPS_BETWEEN_CHECKS", 1000)
    param, message = admin.refused("?by=user")
    assert (param, message) == ("since", "This report takes more than 0 s. Ask for a shorter time: `since`.")
    monkeypatch.undo()
    assert admin.get("?by=user").status_code == 200, "the next statement on that connection is not limited"


def test_reports_are_made_one_at_a_time(admin: Admin) -> None:
    ledger = admin.edge.services.ledger
    with ledger._reporting, pytest.raises(StoreUnavailable, match="Another usage report is being made"):
        ledger.usage_page("user", limit=1, timeout_s=0.01)
    assert ledger.usage_page("user", limit=1)[1].calls == 4

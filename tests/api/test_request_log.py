"""A request is told of when it begins: by whom and with what, without a secret, in one short line."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs

from app.telemetry.logging import configure_logging
from tests.api.conftest import AppClient

CONFIG = """
providers: {demo: {kind: demo, script: {chunk_delay_s: 0}}}
models: {m: {targets: [{provider: demo}]}}
"""


def started_events(logs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [line for line in logs if line["event"] == "request_started"]


def test_a_call_is_told_of_when_it_begins(client_with: Callable[[str], AppClient]) -> None:
    opened = client_with(CONFIG)
    with capture_logs() as logs:
        opened.chat(headers={"User-Agent": "curl/8.0", "X-Request-ID": "mine"})
    assert logs[0] == {
        "event": "request_started",
        "log_level": "info",
        "request_id": "mine",
        "method": "POST",
        "route": "/v1/chat/completions",
        "client_ip": "127.0.0.1",
        "user_agent": "curl/8.0",
    }
    assert logs[-1]["event"] == "request_completed"
    assert logs[-1]["request_id"] == "mine"


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/v1/models", "/v1/models"),
        ("/v1/requests/req_secret", "/v1/requests/<job_id>"),
        ("/no/such", "unmatched"),
        ("/v1/chat/history/ann", "/v1/chat/history/<path:user_id>"),
    ],
)
def test_every_view_tells_its_rule_and_never_the_path(
    client_with: Callable[[str], AppClient], path: str, route: str
) -> None:
    opened = client_with(CONFIG)
    with capture_logs() as logs:
        opened.get(path, key=opened.key)
    [line] = started_events(logs)
    assert line["route"] == route
    assert "ann" not in str(line)


@pytest.mark.parametrize("path", ["/health", "/ready", "/v1/health", "/api/v1/ready", "/metrics"])
def test_health_checks_are_no_news(client_with: Callable[[str], AppClient], path: str) -> None:
    opened = client_with(CONFIG)
    with capture_logs() as logs:
        assert opened.get(path).status_code == 200
    assert {line["log_level"] for line in logs if line["event"].startswith("request_")} == {"debug"}


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """The events in production's log."""
    kept = io.BytesIO()
    monkeypatch.setattr("app.telemetry.logging.os.write", lambda _, line: kept.write(line))
    handlers = logging.root.handlers
    configure_logging("info", True, frozenset({"sk-a-vendors-secret"}))
    yield lambda: [json.loads(line) for line in kept.getvalue().splitlines()]
    logging.root.handlers = handlers


def test_a_user_agent_is_cut_and_can_neither_break_the_line_nor_hold_a_key(
    client_with: Callable[[str], AppClient], written: Callable[[], list[dict[str, Any]]]
) -> None:
    opened = client_with(CONFIG)
    agent = 'x" ,"level":"error" sk-a-vendors-secret \x85\x9b2J ' + "y" * 5000
    opened.chat(headers={"User-Agent": agent})
    [line] = started_events(written())
    assert line["level"] == "info"
    assert line["user_agent"].startswith('x" ,"level"')
    assert len(line["user_agent"]) <= 220
    assert "secret" not in str(line)

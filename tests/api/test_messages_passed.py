"""Messages from Anthropic's clients to vendors of their dialect: the bytes pass untouched, and are accounted for."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.api.conftest import AppClient
from tests.support.response import AppResponse
from tests.support.vendors.server import Vendors

CONFIG = """
providers:
  anthropic: {kind: anthropic, base_url: "%s", api_key: sk-ant-gateways-own-0001, headers: {anthropic-beta: ours-1}}
  ours:
    kind: anthropic
    base_url: "%s"
    api_key: sk-ant-gateways-own-0002
    headers: {Anthropic-Workspace: ours, anthropic-beta: ours-1, anthropic-version: "2020-01-01"}
  other: {kind: openai, base_url: "%s", api_key: sk-gateways-own-0001}
models:
  plain: {targets: [{provider: anthropic}]}
  fixed: {targets: [{provider: ours, model: plain}]}
  tools-think: {targets: [{provider: anthropic}]}
  usage-100-20-10-5-30: {targets: [{provider: anthropic}]}
  overflow: {targets: [{provider: anthropic}]}
  status-529: {targets: [{provider: anthropic}]}
  status-422: {targets: [{provider: anthropic}]}
  cut-3: {targets: [{provider: anthropic}]}
  errorevent-3: {targets: [{provider: anthropic}]}
  errorevent-0: {targets: [{provider: anthropic}]}
  falling: {targets: [{provider: anthropic, model: errorevent-0}], fallbacks: [plain]}
  overflow-elsewhere: {targets: [{provider: other, model: overflow}]}
  elsewhere: {targets: [{provider: other, model: usage-100-20-10-5-30}]}
retry: {max_attempts: 2}
"""
HELLO: dict[str, Any] = {"max_tokens": 5000, "messages": [{"role": "user", "content": "Hello there"}]}
TOOL = {"name": "look", "input_schema": {"type": "object", "properties": {"path": {"type": "string"}}}}


@pytest.fixture(scope="module")
def vendors() -> Iterator[Vendors]:
    with Vendors() as played:
        yield played


@pytest.fixture
def app(client_with: Callable[[str], AppClient], vendors: Vendors) -> AppClient:
    vendors.reset()
    return client_with(CONFIG % (vendors.base_url("messages"), vendors.base_url("messages"), vendors.base_url("chat")))


def ask(app: AppClient, model: str = "plain", headers: dict[str, str] | None = None, **more: Any) -> AppResponse:
    body = json.dumps({"model": model, **HELLO, **more})
    return app.post(body, path="/v1/messages?beta=true", headers={"anthropic-version": "2023-06-01", **(headers or {})})


def events(response: AppResponse) -> list[dict[str, Any]]:
    lines = response.text.split("\n")
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]


def test_body_and_headers_reach_the_vendor_as_they_were_sent(app: AppClient, vendors: Vendors) -> None:
    headers = {"anthropic-beta": "context-management-2025-06-27,new-1", "Anthropic-New": "x", "x-other": "y"}
    fields: dict[str, Any] = {
        "context_management": {"edits": []},
        "system": [{"type": "text", "text": "Be brief."}],
        "top_k": 3,
    }
    assert ask(app, headers=headers, **fields).status_code == 200
    [asked] = vendors.requests()
    assert asked["body"] == {"model": "plain", **HELLO, **fields}
    sent = asked["headers"]
    assert (sent["anthropic-version"], sent["anthropic-new"]) == ("2023-06-01", "x")
    assert sent["x-api-key"] == "sk-ant-gateways-own-0001"
    assert app.key not in json.dumps(asked)
    assert "x-other" not in sent


def test_a_header_that_the_operator_configured_is_not_the_callers(app: AppClient, vendors: Vendors) -> None:
    headers = {"anthropic-workspace": "theirs", "anthropic-beta": "new-1", "anthropic-new": "x"}
    assert ask(app, "fixed", headers=headers).status_code == 200
    [asked] = vendors.requests()
    sent = asked["headers"]
    assert (sent["anthropic-workspace"], sent["anthropic-new"]) == ("ours", "x")
    assert (sent["anthropic-version"], sent["anthropic-beta"]) == ("2023-06-01", "new-1")
    assert "theirs" not in json.dumps(asked)


def test_a_count_is_the_vendors_own(app: AppClient, vendors: Vendors) -> None:
    body = json.dumps({"model": "plain", "messages": HELLO["messages"]}, separators=(",", ":"))
    response = app.post(body, path="/v1/messages/count_tokens?beta=true", headers={"anthropic-beta": "x-1"})
    [asked] = vendors.requests()
    assert (response.status_code, response.json) == (200, {"input_tokens": len(body) // 4})
    assert (asked["path"], asked["body"]) == ("/v1/messages/count_tokens", json.loads(body))
    assert app.rows() == []


@pytest.mark.parametrize("stream", [False, True])
def test_usage_is_in_the_ledger_to_the_token(app: AppClient, stream: bool) -> None:
    response = ask(app, "usage-100-20-10-5-30", stream=stream)
    assert response.status_code == 200, response.text
    [row] = app.rows()
    assert (row["prompt_tokens"], row["completion_tokens"], row["cached_tokens"]) == (100, 20, 10)
    assert (row["cache_write_tokens"], row["endpoint"], row["provider"]) == (30, "messages", "anthropic")
    assert not row["estimated"]


def test_a_stream_passes_with_all_of_its_events(app: AppClient) -> None:
    response = ask(app, stream=True)
    kinds = [event["type"] for event in events(response)]
    assert kinds[:3] == ["message_start", "ping", "content_block_start"]
    assert kinds[-2:] == ["message_delta", "message_stop"]
    assert [line for line in response.text.split("\n") if line.startswith("event: ")] == [f"event: {k}" for k in kinds]


def test_an_error_before_the_first_content_falls_back(app: AppClient) -> None:
    response = ask(app, "falling", stream=True)
    assert response.status_code == 200
    assert events(response)[-1]["type"] == "message_stop"
    assert response.headers["x-penstock-attempts"] == "2"


def test_an_error_before_the_first_content_is_the_vendors_own(app: AppClient) -> None:
    response = ask(app, "errorevent-0", stream=True)
    assert (response.status_code, response.json["error"]["type"]) == (529, "overloaded_error")


def test_an_error_in_the_middle_is_the_vendors_own(app: AppClient) -> None:
    last = events(ask(app, "errorevent-3", stream=True))[-1]
    assert (last["type"], last["error"]["type"]) == ("error", "overloaded_error")


def test_a_cut_stream_ends_with_an_error(app: AppClient) -> None:
    found = events(ask(app, "cut-3", stream=True))
    assert found[-1]["type"] == "error"
    [row] = app.rows()
    assert row["status"] == "error"
    assert row["prompt_tokens"] > 0


@pytest.mark.parametrize(
    ("model", "status", "message"),
    [
        ("overflow", 400, "prompt is too long: 250001 tokens > 200000 maximum"),
        ("status-422", 422, "The vendor says 422."),
    ],
)
def test_a_vendors_refusal_passes_byte_for_byte(app: AppClient, model: str, status: int, message: str) -> None:
    response = ask(app, model)
    error = {"type": "invalid_request_error" if status == 400 else "api_error", "message": message}
    assert response.status_code == status
    assert response.json == {"type": "error", "error": error, "request_id": "req_played"}
    assert response.headers["request-id"]


def test_another_dialects_overflow_says_what_makes_agents_compact(app: AppClient) -> None:
    response = ask(app, "overflow-elsewhere")
    assert (response.status_code, response.json["error"]["type"]) == (400, "invalid_request_error")
    assert re.match(r"prompt is too long: \d+ tokens > \d+ maximum$", response.json["error"]["message"])


def test_an_overloaded_vendor_is_told_by_its_own_status(app: AppClient) -> None:
    response = ask(app, "status-529")
    assert (response.status_code, response.json["error"]["type"]) == (529, "overloaded_error")


@pytest.mark.parametrize("stream", [False, True])
def test_signed_thinking_comes_back_to_the_vendor_unchanged(app: AppClient, vendors: Vendors, stream: bool) -> None:
    thinking = {"type": "enabled", "budget_tokens": 1024}
    whole = ask(app, "tools-think", tools=[TOOL], thinking=thinking).json
    assert [block["type"] for block in whole["content"]] == ["thinking", "tool_use"]
    result = {"type": "tool_result", "tool_use_id": whole["content"][-1]["id"], "content": "a.txt"}
    messages = [
        *HELLO["messages"],
        {"role": "assistant", "content": whole["content"]},
        {"role": "user", "content": [result]},
    ]
    again = ask(app, "tools-think", tools=[TOOL], thinking=thinking, messages=messages, stream=stream)
    assert again.status_code == 200, again.text
    assert vendors.requests()[-1]["body"]["messages"] == messages


def test_another_vendors_thinking_stays_with_that_vendor(app: AppClient, vendors: Vendors) -> None:
    first = ask(app, "elsewhere").json
    assert app.rows()[-1]["cached_tokens"] == 10
    messages = [*HELLO["messages"], {"role": "assistant", "content": first["content"]}, *HELLO["messages"]]
    assert ask(app, messages=messages).status_code == 200
    assert "pstk1." not in json.dumps(vendors.requests()[-1]["body"])


@pytest.mark.parametrize("stream", [False, True])
def test_what_is_left_of_the_plan_is_told_in_anthropics_headers(
    client_with: Callable[[str], AppClient], vendors: Vendors, stream: bool
) -> None:
    config = CONFIG % (vendors.base_url("messages"), vendors.base_url("messages"), vendors.base_url("chat"))
    app = client_with(config + "plans: {default: {requests_per_minute: 10, tokens_per_minute: 100000}}\n")
    headers = ask(app, stream=stream).headers
    assert headers["anthropic-ratelimit-requests-limit"] == "10"
    assert headers["anthropic-ratelimit-requests-remaining"] == "9"
    assert headers["anthropic-ratelimit-tokens-limit"] == "100000"
    assert headers["anthropic-ratelimit-tokens-reset"].endswith("Z")
    assert headers["request-id"] == headers["x-request-id"]


def test_a_limit_is_told_as_anthropic_tells_it(client_with: Callable[[str], AppClient], vendors: Vendors) -> None:
    config = CONFIG % (vendors.base_url("messages"), vendors.base_url("messages"), vendors.base_url("chat"))
    app = client_with(config + "plans: {default: {requests_per_minute: 1}}\n")
    ask(app)
    refused = ask(app)
    assert (refused.status_code, refused.json["error"]["type"]) == (429, "rate_limit_error")
    assert refused.headers["anthropic-ratelimit-requests-remaining"] == "0"
    assert float(refused.headers["retry-after"]) >= 1

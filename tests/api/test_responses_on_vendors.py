"""Responses on played vendors of every dialect: bytes that pass, conversations that go on, and what no vendor gets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.api.conftest import AppClient
from tests.support.response import AppResponse
from tests.support.vendors.server import Vendors

CONFIG = """
providers:
  openai: {kind: openai, base_url: "%(responses)s", api_key: sk-gateways-own-0001}
  chat: {kind: openai, base_url: "%(chat)s", api_key: sk-gateways-own-0001}
  anthropic: {kind: anthropic, base_url: "%(messages)s", api_key: sk-ant-gateways-own-0001}
  gemini: {kind: gemini, base_url: "%(gemini)s", api_key: gateways-own-0001}
models:
  responses: {wire: responses, targets: [{provider: openai, model: tools-think}]}
  chat: {targets: [{provider: chat, model: tools}]}
  messages: {targets: [{provider: anthropic, model: tools-think}]}
  gemini: {targets: [{provider: gemini, model: tools-think}]}
  plain: {wire: responses, targets: [{provider: openai, model: plain}]}
  usage: {wire: responses, targets: [{provider: openai, model: usage-100-20-10-5-30}]}
  cut: {wire: responses, targets: [{provider: openai, model: cut-3}]}
  reported: {wire: responses, targets: [{provider: openai, model: errorevent-3}]}
  overflow: {wire: responses, targets: [{provider: openai, model: overflow}]}
  overflow-elsewhere: {targets: [{provider: anthropic, model: overflow}]}
  falling: {wire: responses, targets: [{provider: openai, model: errorevent-0}], fallbacks: [messages]}
retry: {max_attempts: 2}
"""
DIALECTS = ("responses", "chat", "messages", "gemini")
PARAMETERS = {"type": "object", "properties": {"path": {"type": "string"}}}
TOOL = {"type": "function", "name": "look", "parameters": PARAMETERS, "strict": False}


@pytest.fixture(scope="module")
def vendors() -> Iterator[Vendors]:
    with Vendors() as played:
        yield played


@pytest.fixture
def app(client_with: Callable[[str], AppClient], vendors: Vendors) -> AppClient:
    vendors.reset()
    return client_with(CONFIG % {dialect: vendors.base_url(dialect) for dialect in DIALECTS})


def respond(app: AppClient, model: str, given: Any = "Look.", **more: Any) -> AppResponse:
    return app.post(json.dumps({"model": model, "input": given, **more}), path="/v1/responses")


def ended(response: AppResponse) -> dict[str, Any]:
    """The response object of an answer, whole or streamed."""
    assert response.status_code == 200, response.text
    if not response.headers["Content-Type"].startswith("text/event-stream"):
        return dict(response.json)
    last = response.text.removesuffix("\n\n").split("\n\n")[-1]
    found: dict[str, Any] = json.loads(last.partition("\ndata: ")[2])["response"]
    return found


def calls(response: dict[str, Any]) -> list[dict[str, Any]]:
    return [item for item in response["output"] if item["type"] == "function_call"]


def text(response: dict[str, Any]) -> str:
    parts = [part for item in response["output"] if item["type"] == "message" for part in item["content"]]
    return "".join(part["text"] for part in parts)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_tool_loop_goes_on_from_a_kept_response(app: AppClient, vendors: Vendors, dialect: str, stream: bool) -> None:
    more = {"tools": [TOOL], "stream": stream, "reasoning": {"effort": "low", "summary": "auto"}}
    first = ended(respond(app, dialect, **more))
    results = [{"type": "function_call_output", "call_id": call["call_id"], "output": "42"} for call in calls(first)]
    assert results
    second = ended(respond(app, dialect, results, previous_response_id=first["id"], **more))
    assert "42" in text(second)
    asked = vendors.requests()
    assert [request["dialect"] for request in asked] == [dialect] * 2
    assert not any(request.get("refused") for request in asked)
    assert [row["status"] for row in app.rows()] == ["ok", "ok"]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_tool_loop_goes_on_from_its_repeated_items(app: AppClient, vendors: Vendors, dialect: str) -> None:
    """Codex's way: nothing is kept, and each request repeats the whole conversation."""
    more = {"tools": [TOOL], "store": False, "include": ["reasoning.encrypted_content"], "reasoning": {"effort": "low"}}
    first = ended(respond(app, dialect, **more))
    given = [{"role": "user", "content": "Look."}, *first["output"]]
    given += [{"type": "function_call_output", "call_id": call["call_id"], "output": "42"} for call in calls(first)]
    second = ended(respond(app, dialect, given, **more))
    assert "42" in text(second)
    assert not any(request.get("refused") for request in vendors.requests())


def test_bytes_pass_to_a_vendor_of_the_dialect(app: AppClient, vendors: Vendors) -> None:
    vendors.reset()
    found = respond(app, "plain", text={"verbosity": "low"})
    [asked] = vendors.requests()
    assert asked["body"] == {"model": "plain", "input": "Look.", "text": {"verbosity": "low"}}
    assert found.json["model"] == "plain"


def test_a_conversation_with_another_vendors_reasoning_goes_on(app: AppClient, vendors: Vendors) -> None:
    more = {"tools": [TOOL], "reasoning": {"effort": "low"}, "include": ["reasoning.encrypted_content"]}
    first = ended(respond(app, "messages", **more))
    results = [{"type": "function_call_output", "call_id": call["call_id"], "output": "42"} for call in calls(first)]
    second = ended(respond(app, "responses", results, previous_response_id=first["id"], **more))
    third = ended(respond(app, "gemini", "Thanks.", previous_response_id=second["id"], tools=[TOOL]))
    assert third["status"] == "completed"
    assert "pstk1." not in json.dumps([request["body"] for request in vendors.requests()])
    assert not any(request.get("refused") for request in vendors.requests())


def test_another_target_takes_over_in_the_middle_of_a_loop(app: AppClient, vendors: Vendors) -> None:
    first = ended(respond(app, "responses", tools=[TOOL], include=["reasoning.encrypted_content"]))
    results = [{"type": "function_call_output", "call_id": call["call_id"], "output": "42"} for call in calls(first)]
    more = {"previous_response_id": first["id"], "tools": [TOOL], "stream": True}
    second = ended(respond(app, "falling", results, **more))
    assert "42" in text(second)
    assert vendors.requests()[-1]["dialect"] == "messages"


def test_usage_of_a_passed_response_is_booked(app: AppClient) -> None:
    for stream in (False, True):
        ended(respond(app, "usage", stream=stream))
        row = app.rows()[-1]
        assert (row["prompt_tokens"], row["completion_tokens"], row["cached_tokens"]) == (100, 20, 10)
        assert (row["reasoning_tokens"], row["cache_write_tokens"]) == (5, 30)


@pytest.mark.parametrize("model", ["cut", "reported"])
def test_a_passed_stream_that_breaks_off_fails(app: AppClient, model: str) -> None:
    found = respond(app, model, stream=True)
    events = [json.loads(line[6:]) for line in found.text.splitlines() if line.startswith("data: ")]
    assert events[-1]["type"] == "response.failed"
    assert events[-1]["sequence_number"] == events[-2]["sequence_number"] + 1
    assert not any(event["type"] in ("response.completed", "response.incomplete") for event in events)
    assert app.rows()[-1]["status"] == "error"


@pytest.mark.parametrize("model", ["overflow", "overflow-elsewhere"])
def test_an_overflow_has_the_code_that_clients_know(app: AppClient, model: str) -> None:
    found = respond(app, model)
    assert (found.status_code, found.json["error"]["code"]) == (400, "context_length_exceeded")


def test_tokens_are_counted_by_the_vendor(app: AppClient, vendors: Vendors) -> None:
    body = json.dumps({"model": "plain", "input": "Look."})
    found = app.post(body, path="/v1/responses/input_tokens")
    assert found.json["object"] == "response.input_tokens"
    assert vendors.requests(calls_only=False)[-1]["path"].endswith("/responses/input_tokens")

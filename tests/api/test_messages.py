"""Anthropic's messages, as a client of theirs sees the gateway."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.api.conftest import AppClient
from tests.support.response import AppResponse

CONFIG = """
providers:
  demo: {kind: demo, script: {chunk_delay_s: 0}}
  broken: {kind: demo, script: {chunk_delay_s: 0, cut_after_chunks: 3}}
  down: {kind: demo, script: {chunk_delay_s: 0, fail_status: 503}}
models:
  m: {targets: [{provider: demo}]}
  broken: {targets: [{provider: broken}]}
  down: {targets: [{provider: down}]}
retry: {max_attempts: 1}
"""
HELLO: dict[str, Any] = {"max_tokens": 100, "messages": [{"role": "user", "content": "Hello there"}]}


@pytest.fixture
def app(client_with: Callable[[str], AppClient]) -> AppClient:
    return client_with(CONFIG)


def ask(app: AppClient, model: str = "m", path: str = "/v1/messages", **more: Any) -> AppResponse:
    return app.post(json.dumps({"model": model, **HELLO, **more}), path=path)


def events(response: AppResponse) -> list[dict[str, Any]]:
    """The stream's events: each names its type in its `event:` line, and the last one ends the message."""
    found = []
    for event in response.text.removesuffix("\n\n").split("\n\n"):
        name, data = event.split("\n")
        fields: dict[str, Any] = json.loads(data.removeprefix("data: "))
        assert name == f"event: {fields['type']}"
        found.append(fields)
    return found


def test_a_message_is_answered_by_a_vendor_of_another_dialect(app: AppClient) -> None:
    response = ask(app)
    assert response.status_code == 200, response.text
    message = response.json
    assert message["id"].startswith("msg_")
    assert (message["type"], message["role"], message["stop_reason"]) == ("message", "assistant", "end_turn")
    assert [block["type"] for block in message["content"]] == ["text"]
    [row] = app.rows()
    assert (row["endpoint"], row["status"]) == ("messages", "ok")
    assert row["prompt_tokens"] == message["usage"]["input_tokens"]
    assert row["completion_tokens"] == message["usage"]["output_tokens"]


def test_a_stream_of_a_message_has_the_grammar_of_anthropic(app: AppClient) -> None:
    response = ask(app, stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    kinds = [event["type"] for event in events(response)]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(kinds[2:-3]) == {"content_block_delta"}
    [row] = app.rows()
    usage = events(response)[-2]["usage"]
    assert (row["prompt_tokens"], row["completion_tokens"]) == (usage["input_tokens"], usage["output_tokens"])


def test_a_broken_stream_ends_with_an_error_and_no_message_stop(app: AppClient) -> None:
    found = events(ask(app, "broken", stream=True))
    assert found[-1]["type"] == "error"
    assert found[-1]["error"]["type"] == "api_error"
    assert "message_stop" not in {event["type"] for event in found}


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages?beta=true", "/messages", "/v1/v1/messages"])
def test_messages_are_served_under_the_paths_that_clients_make(app: AppClient, path: str) -> None:
    assert ask(app, path=path).status_code == 200


@pytest.mark.parametrize("sent", [{"x-api-key": "{key}"}, {"x-api-key": "dummy", "Authorization": "Bearer {key}"}])
def test_a_key_may_stand_in_either_header(app: AppClient, sent: dict[str, str]) -> None:
    headers = {"Authorization": "", **{name: value.format(key=app.key) for name, value in sent.items()}}
    response = app.post(json.dumps({"model": "m", **HELLO}), path="/v1/messages", headers=headers)
    assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages[0].content[0].type"),
        ({"temperature": 1.5}, "temperature"),
        ({"thinking": {"type": "sometimes"}}, "thinking.type"),
        ({"tools": [{"input_schema": {}}]}, "tools[0].name"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
            "messages[0].content[0].source",
        ),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].web_search_20250305"),
        ({"container": "container_1"}, "container"),
    ],
)
def test_a_wrong_request_is_refused_in_anthropics_shape(app: AppClient, change: dict[str, Any], param: str) -> None:
    response = ask(app, **change)
    assert response.status_code == 400, response.text
    body = response.json
    assert (body["type"], body["error"]["type"]) == ("error", "invalid_request_error")
    assert body["error"]["param"].startswith(param)
    assert body["request_id"] == response.headers["request-id"]


def test_broken_json_is_refused_in_anthropics_shape(app: AppClient) -> None:
    response = app.post("{", path="/v1/messages")
    assert (response.status_code, response.json["error"]["type"]) == (400, "invalid_request_error")


def test_an_unknown_model_is_not_found(app: AppClient) -> None:
    response = ask(app, "claude-none")
    assert (response.status_code, response.json["error"]["type"]) == (404, "not_found_error")


def test_a_wrong_key_is_not_to_be_tried_again(app: AppClient) -> None:
    response = app.post(json.dumps({"model": "m", **HELLO}), path="/v1/messages", key="sk-ant-nothing")
    assert (response.status_code, response.json["error"]["type"]) == (401, "authentication_error")
    assert response.headers["x-should-retry"] == "false"


def test_a_dead_vendor_is_overloaded_with_anthropics_own_status(app: AppClient) -> None:
    response = ask(app, "down")
    assert (response.status_code, response.json["error"]["type"]) == (529, "overloaded_error")


def test_a_prefill_is_refused_by_a_vendor_that_goes_on_with_none(app: AppClient) -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "The answer is ("}]
    assert ask(app, messages=messages).json["error"]["param"] == "messages[1]"


def test_what_was_left_out_is_told(app: AppClient) -> None:
    response = ask(app, context_management={"edits": []}, top_k=5)
    assert response.status_code == 200, response.text
    assert "context_management" in response.headers["x-penstock-dropped"]


def test_a_count_is_made_offline_where_the_vendor_makes_none(app: AppClient) -> None:
    messages = [{"role": "user", "content": "word " * 1000}]
    response = app.post(json.dumps({"model": "m", "messages": messages}), path="/v1/messages/count_tokens")
    assert response.status_code == 200, response.text
    assert 1000 <= response.json["input_tokens"] < 3000
    assert app.post("{}", path="/v1/messages/count_tokens").json["error"]["type"] == "invalid_request_error"


def test_the_root_answers_a_head_request(app: AppClient) -> None:
    assert app.head("/").status_code == 200


def test_models_are_listed_as_the_asker_knows_them(app: AppClient) -> None:
    headers = {"anthropic-version": "2023-06-01"}
    page = app.get("/v1/models?limit=2", key=app.key, headers=headers).json
    assert [model["type"] for model in page["data"]] == ["model", "model"]
    assert (page["has_more"], page["last_id"]) == (True, page["data"][1]["id"])
    rest = app.get(f"/v1/models?after_id={page['last_id']}", key=app.key, headers=headers).json
    assert page["last_id"] not in {model["id"] for model in rest["data"]}
    assert rest["has_more"] is False
    assert app.get("/v1/models", key=app.key).json["object"] == "list"
    one = app.get("/v1/models/m", key=app.key, headers=headers).json
    assert (one["id"], one["display_name"], one["type"]) == ("m", "m", "model")
    assert app.get("/v1/models?limit=0", key=app.key, headers=headers).status_code == 400

"""Context windows: a prompt that no target can hold is refused before one is asked, and no other is."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.api.conftest import AppClient
from tests.support.providers import scripted_server

CONFIG = """
providers:
  a: {kind: demo, script: {chunk_delay_s: 0, reply: "Yes."}}
  b: {kind: demo, script: {chunk_delay_s: 0, reply: "Yes."}}
  vendor: {kind: openai, base_url: "%s", prices: openai}
models:
  small: {targets: [a], context_window: 10000}
  both: {targets: [{provider: a, model: one}], fallbacks: [long], context_window: 10000}
  long: {targets: [{provider: b, model: two}], context_window: 100000}
  boundless: {targets: [b]}
  gpt-4: {targets: [vendor]}
  claude-sonnet-4-5: {targets: [{provider: vendor}]}
cache: {enabled: false}
optimizer: {enabled: false}
"""
NOWHERE = "http://127.0.0.1:9/v1"


def words(count: int) -> list[dict[str, Any]]:
    return [{"role": "user", "content": " word" * count}]


@pytest.fixture
def client(client_with: Callable[[str], AppClient]) -> AppClient:
    return client_with(CONFIG % NOWHERE)


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_cannot_fit_is_refused_before_it_is_sent(client: AppClient, stream: bool) -> None:
    answer = client.chat("small", messages=words(20_000), stream=stream)
    # The demo model's tokens are nobody's: they are taken to be as few as any vendor's.
    assert answer.status_code == 400
    assert answer.json["error"] == {
        "message": "prompt is too long: 12000 tokens > 10000 maximum",
        "type": "invalid_request_error",
        "param": None,
        "code": "context_length_exceeded",
    }
    assert answer.json["code"] == "CONTEXT_LENGTH_EXCEEDED"
    assert client.asked == []
    [row] = client.rows()
    assert (row["status"], row["http_status"], row["cost_nanousd"]) == ("error", 400, 0)


def test_every_dialect_is_checked_and_told_in_its_own_words(client: AppClient) -> None:
    text = " word" * 20_000
    words_of_it = "prompt is too long: 12000 tokens > 10000 maximum"
    asked: dict[str, dict[str, Any]] = {
        "/v1/messages": {"model": "small", "max_tokens": 5, "messages": [{"role": "user", "content": text}]},
        "/v1/responses": {"model": "small", "input": text},
        "/v1beta/models/small:generateContent": {"contents": [{"role": "user", "parts": [{"text": text}]}]},
    }
    answers = {path: client.post(json.dumps(body), path=path) for path, body in asked.items()}
    assert {answer.status_code for answer in answers.values()} == {400}
    errors = {path: answer.json["error"] for path, answer in answers.items()}
    assert [error["message"] for error in errors.values()] == [words_of_it] * 3
    assert errors["/v1/messages"]["type"] == "invalid_request_error"
    assert errors["/v1/responses"]["code"] == "context_length_exceeded"
    assert errors["/v1beta/models/small:generateContent"]["status"] == "INVALID_ARGUMENT"
    assert client.asked == []


def test_a_prompt_that_may_fit_is_sent(client: AppClient) -> None:
    assert client.chat("small", messages=words(16_000)).status_code == 200
    assert client.chat("boundless", messages=words(200_000)).status_code == 200
    assert client.asked == ["a", "b"]


def test_a_fallback_that_can_hold_the_prompt_is_reason_enough_to_send_it(client: AppClient) -> None:
    assert client.chat("both", messages=words(20_000)).status_code == 200
    assert client.chat("both", messages=words(200_000)).json["code"] == "CONTEXT_LENGTH_EXCEEDED"


def test_pictures_and_reasoning_do_not_count(client: AppClient) -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "iVBORw0K" * 20_000}}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": "text", "text": "Look."}, picture]},
        {"role": "assistant", "content": "I see.", "reasoning_content": " hm" * 40_000},
        {"role": "user", "content": "So?"},
    ]
    assert client.chat("small", messages=messages).status_code == 200


def test_a_request_that_the_vendor_makes_fit_is_sent(client: AppClient) -> None:
    assert client.chat("small", messages=words(20_000), transforms=["middle-out"]).status_code == 200
    assert client.chat("small", messages=words(20_000), transforms=[]).status_code == 400
    assert client.chat("small", messages=words(20_000), transforms=None).status_code == 400
    longer = {"anthropic-version": "2023-06-01", "anthropic-beta": "context-1m-2025-08-07"}
    body = {"model": "small", "max_tokens": 5, "messages": words(20_000)}
    assert client.post(json.dumps(body), path="/v1/messages", headers=longer).status_code == 200
    for extra in ({"truncation": "auto"}, {"context_management": [{"type": "compaction"}]}):
        body = {"model": "small", "input": " word" * 20_000, **extra}
        assert "too long" not in client.post(json.dumps(body), path="/v1/responses").text


def test_a_window_of_the_price_table_is_taken_with_some_slack(client: AppClient) -> None:
    refused = client.chat("gpt-4", messages=words(12_000)).json["error"]["message"]
    assert refused == f"prompt is too long: {int(12_000 * 0.98)} tokens > {int(8192 * 1.1)} maximum"
    # Sent: the connection is refused.
    assert client.chat("gpt-4", messages=words(9_000)).status_code == 503


def test_a_vendors_own_refusal_says_the_same(client_with: Callable[[str], AppClient]) -> None:
    message = (
        "This model's maximum context length is 8192 tokens. However, your messages resulted in 9100 tokens. Please "
        "reduce the length of the messages."
    )
    error = {"error": {"message": message, "type": "invalid_request_error", "code": "context_length_exceeded"}}
    body = json.dumps(error).encode()

    def serve(sock: Any) -> None:
        sock.sendall(b"HTTP/1.1 400 X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body))
        sock.sendall(body)

    with scripted_server(serve) as url:
        client = client_with(CONFIG % url)
        answer = client.chat("gpt-4")
        assert (answer.status_code, answer.json["error"]["code"]) == (400, "context_length_exceeded")
        assert "9100 tokens" in answer.json["error"]["message"]


def test_models_tell_their_windows_prices_and_capabilities(client_with: Callable[[str], AppClient]) -> None:
    client = client_with("""
providers:
  a: {kind: demo}
  openai: {kind: openai, base_url: "http://127.0.0.1:9/v1", prices: openai}
  google: {kind: openai, base_url: "http://127.0.0.1:9/v1", prices: google}
models:
  mine: {targets: [a], context_window: 10000, max_output_tokens: 500, capabilities: [tools, vision]}
  gpt-4o: {targets: [openai, {provider: openai, model: gpt-4}], max_output_tokens: 16384}
  gemini-2.5-pro: {targets: [google]}
  nobodys: {targets: [openai]}
  text-embedding-3-small: {kind: embedding, targets: [openai]}
""")
    facts = {
        model["id"]: [model[name] for name in ("context_window", "max_output_tokens", "prices", "capabilities")]
        for model in client.get("/v1/models", key=client.key).json["data"]
    }
    assert facts["mine"] == [10_000, 500, {"prompt": "1", "completion": "2"}, ["tools", "vision"]]
    assert facts["nobodys"][:2] == [None, 16_384]
    assert facts["gpt-4o"][:2] == [8192, 16_384]  # the smaller of its targets'
    assert facts["text-embedding-3-small"][:2] == [8192, None]

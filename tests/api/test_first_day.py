"""Mistakes of a first day, and their answers: the field, the value that was sent, the remedy."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from app.domain.chat import ChatRequest
from app.domain.suggestions import closest_match, unknown_model_message
from app.errors import InvalidRequest
from tests.api.conftest import KEY, AppClient

CONFIG = """
providers: {demo: {kind: demo, script: {chunk_delay_s: 0}}}
models: {gpt-4o: {targets: [{provider: demo}]}, gpt-4o-mini: {targets: [{provider: demo}]},
         secret-model: {targets: [{provider: demo}]}}
"""
HELLO = {"role": "user", "content": "Hello there"}


@pytest.fixture
def client(client_with: Callable[[str], AppClient]) -> AppClient:
    return client_with(CONFIG)


def refusal_of(client: AppClient, path: str, body: Any, *, kind: str = "application/json") -> tuple[str | None, str]:
    """The `param` and the message of the 400 that `body` gets."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": kind}
    answer = client.send("POST", path, headers=headers, data=data)
    assert answer.status_code == 400
    found: Any = answer.json
    assert (found["code"], found["error"]["type"]) == ("INVALID_REQUEST", "invalid_request_error")
    return found["error"]["param"], found["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body", "param", "sent"),
    [
        ("chat/completions", {"model": "gpt-4o", "mesages": [HELLO]}, "messages", "mesages"),
        ("chat/completions", {"model": "gpt-4o", "Messages": [HELLO]}, "messages", "Messages"),
        ("chat/completions", {"model": "gpt-4o", "prompt": "Hello"}, "messages", "prompt"),
        ("chat/completions", {"model": "m", "messages": [{"rol": "user"}]}, "messages[0].role", "rol"),
        ("chat/completions", {"model": "gpt-4o", "messages": [HELLO, {"Role": "user"}]}, "messages[1].role", "Role"),
        (
            "chat/completions",
            {"model": "m", "messages": [{"role": "user", "contents": "x"}]},
            "messages[0].content",
            "contents",
        ),
        ("chat/smart", {"message": [HELLO]}, "messages", "message"),
        ("chat/async", {"model": "gpt-4o", "mesages": [HELLO]}, "messages", "mesages"),
        ("chat/completions", {"modle": "gpt-4o", "messages": [HELLO]}, "model", "modle"),
        ("chat/smart", {"model_name": "gpt-4o", "models": ["gpt-4o"], "messages": [HELLO]}, "model", "models"),
        ("embeddings", {"model": "gpt-4o", "imput": "x"}, "input", "imput"),
        ("embeddings", {"modell": "gpt-4o", "input": "x"}, "model", "modell"),
        ("chat", {"mesage": "Hi", "user_id": "u"}, "message", "mesage"),
        ("batches", {"file_id": "f", "endpoint": "/v1/embeddings"}, "input_file_id", "file_id"),
    ],
)
def test_a_misspelt_field_is_named(client: AppClient, path: str, body: Any, param: str, sent: str) -> None:
    expected = f"Missing required field: `{param}`. There is `{sent}` instead."
    assert refusal_of(client, f"/v1/{path}", body) == (param, expected)


def test_a_field_that_is_simply_missing_is_all_that_is_named(client: AppClient) -> None:
    body = {"model": "gpt-4o", "metadata": {}, "max_tokens": 5, "x" * 70: 1}
    assert refusal_of(client, "/v1/chat/completions", body) == ("messages", "Missing required field: `messages`.")


def test_fields_that_nobody_knows_still_go_to_the_vendor(client: AppClient) -> None:
    body = {"model": "gpt-4o", "messages": [{**HELLO, "contents": 1}], "temprature": 1, "mesages": []}
    assert client.post(json.dumps(body)).status_code == 200
    called = [HELLO, {"role": "assistant", "tool_calls": []}, {"role": "tool", "content": "x", "tool_call_id": "1"}]
    assert client.chat("gpt-4o", messages=called).status_code == 200
    assert client.chat("gpt-4o", messages=[{"role": "user", "content": None}]).status_code == 200, "the vendor's to say"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "The request body is empty: expected a JSON object."),
        (b" \n", "The request body is empty: expected a JSON object."),
        (b'{"model": "gpt-4o"', "The request body is not valid JSON: it ends too early."),
        (b"{'model': 'm'}", "The request body is not valid JSON: object keys must be strings at line 1, column 2."),
        (b'{"model": "m",}', "The request body is not valid JSON: trailing comma in object at line 1, column 15."),
        (b'{\n "model": m\n}', "The request body is not valid JSON: invalid character at line 2, column 11."),
        (b"model=m&messages=hi", "The request body is not valid JSON: invalid character at line 1, column 1."),
        (b'["Hello"]', "The request body must be a JSON object."),
        (b'"Hello"', "The request body must be a JSON object."),
    ],
)
def test_a_body_that_is_no_json_object_is_told_where_it_stops_being_one(
    client: AppClient, body: bytes, told: str
) -> None:
    for path in ("chat/completions", "embeddings", "chat", "chat/async", "batches"):
        assert refusal_of(client, f"/v1/{path}", body) == (None, told)


@pytest.mark.parametrize(
    ("more", "param", "told"),
    [
        ({"stream": "true"}, "stream", "Expected `bool | null`, got `str`: `stream`."),
        ({"temperature": "0.1"}, "temperature", "Expected `float | null`, got `str`: `temperature`."),
        ({"messages": ["Hello"]}, "messages[0]", "Expected `object`, got `str`: `messages[0]`."),
        (
            {"messages": "Hello"},
            "messages",
            'Expected `array`, got `str`: `messages`. An example: [{"role": "user", "content": "…"}].',
        ),
    ],
)
def test_a_wrong_type_is_told_with_the_right_one(
    client: AppClient, more: dict[str, Any], param: str, told: str
) -> None:
    assert refusal_of(client, "/v1/chat/completions", {"model": "gpt-4o", "messages": [HELLO], **more}) == (param, told)


def test_a_value_that_is_quoted_in_an_error_is_cut(client: AppClient) -> None:
    body = {"model": "gpt-4o", "messages": [{"role": "u" * 100_000, "content": "x"}]}
    param, message = refusal_of(client, "/v1/chat/completions", body)
    assert (param, len(message) < 200) == ("messages[0].role", True)


@pytest.mark.parametrize(
    ("path", "sent", "told"),
    [
        (
            "chat/completions",
            "application/x-www-form-urlencoded",
            "Expected Content-Type: application/json; not `application/x-www-form-urlencoded`.",
        ),
        ("chat/completions", "", "Expected Content-Type: application/json; none was sent."),
        ("chat", "text/plain;" + "x" * 100, f"Expected Content-Type: application/json; not `text/plain;{'x' * 53}`."),
        ("batches", "text/plain", "Expected Content-Type: application/json; not `text/plain`."),
        ("files", "application/json", "Expected Content-Type: multipart/form-data; not `application/json`."),
    ],
)
def test_a_wrong_content_type_is_told_what_was_sent(client: AppClient, path: str, sent: str, told: str) -> None:
    headers = {"Authorization": f"Bearer {KEY}", **({"Content-Type": sent} if sent else {})}
    answer = client.send("POST", f"/v1/{path}", headers=headers, data=b"{}")
    found: Any = answer.json
    assert (answer.status_code, found["code"]) == (415, "UNSUPPORTED_MEDIA_TYPE")
    assert found["error"]["message"] == told


def test_an_unknown_model_is_told_a_near_one_that_the_key_may_use(client: AppClient) -> None:
    key, _ = client.services.keys.create("narrow", models=["gpt-4o", "gpt-4o-mini"])
    for asked, told in (
        ("gpt4o", "The model `gpt4o` does not exist on this gateway. Did you mean `gpt-4o`?"),
        ("up/gpt-4o-mini", "The model `up/gpt-4o-mini` does not exist on this gateway. Did you mean `gpt-4o-mini`?"),
        ("secret-modl", "The model `secret-modl` does not exist on this gateway. It has `gpt-4o`, `gpt-4o-mini`."),
        ("x\x1b" * 200, f"The model `{'x?' * 32}` does not exist on this gateway. It has `gpt-4o`, `gpt-4o-mini`."),
    ):
        if len(asked) <= 256:
            answer: Any = client.chat(asked, key=key).json
            assert (answer["code"], answer["error"]["param"]) == ("MODEL_NOT_FOUND", "model")
            assert answer["error"]["message"] == told
        assert unknown_model_message(asked, ["gpt-4o", "gpt-4o-mini"]) == told
    shown: Any = client.get("/v1/models/gpt4o", key=key).json
    assert (shown["code"], shown["error"]["message"][-14:]) == ("MODEL_NOT_FOUND", "mean `gpt-4o`?")
    hidden: Any = client.get("/v1/models/secret-model", key=key).json
    assert "It has `gpt-4o`, `gpt-4o-mini`." in hidden["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [
        {"model": "m", **{f"message{i}": 1 for i in range(10_000)}},
        {"model": "m", "messages": [{"role": "user"}] * 15_000},
        {"model": "m", "messages": [{"rol" * 1000: 1} for _ in range(80)]},
    ],
)
def test_looking_for_what_was_meant_takes_a_bounded_time(body: Any) -> None:
    raw = json.dumps(body).encode()
    began = time.process_time()
    with suppress(InvalidRequest):
        ChatRequest.parse(raw)
    assert time.process_time() - began < 0.25
    began = time.process_time()
    closest_match("vendor/modl-99-instruct", [f"vendor/model-{i}-instruct" for i in range(10_000)])
    assert time.process_time() - began < 0.1

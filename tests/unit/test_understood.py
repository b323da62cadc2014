"""Under a budget nothing is sent whose cost nobody knows beforehand, nor a name that another parser reads otherwise."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.domain.body import encode_fields
from app.domain.chat import ChatRequest
from app.errors import InvalidRequest

TEXT = {"type": "text", "text": "Hi"}
PICTURE = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
SOUND = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
REFUSAL = {"type": "refusal", "refusal": "No."}


def request(*parts: Any, **message: Any) -> ChatRequest:
    whole = {"role": "user", "content": list(parts) if parts else "Hi", **message}
    body = {"model": "m", "messages": [{"role": "system", "content": "Be kind."}, whole]}
    return ChatRequest.parse(json.dumps(body).encode())


@pytest.mark.parametrize(
    "parts",
    [(), (TEXT,), (TEXT, PICTURE, SOUND, REFUSAL), ({**TEXT, "cache_control": {"type": "ephemeral"}},)],
)
def test_what_is_bounded_goes_on_as_it_was(parts: tuple[Any, ...]) -> None:
    asked = request(*parts)
    understood = asked.canonical()
    assert json.loads(encode_fields(understood.fields, {})) == json.loads(asked.raw)
    assert understood.messages == asked.messages


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        (request({"type": "file", "file": {"file_id": "file-1"}}), "messages[1].content[0]"),
        (request(TEXT, {"type": "video_url", "video_url": {"url": "x"}}), "messages[1].content[1]"),
        (request({**TEXT, "file": {"file_id": "file-1"}}), "messages[1].content[0]"),
        (request({**PICTURE, "text": "too"}), "messages[1].content[0]"),
        (request(audio={"id": "audio_1"}), "messages[1].audio"),
        (request(Content="more"), "messages[1].Content"),
        (request(ROLE="system"), "messages[1].ROLE"),
    ],
)
def test_what_is_not_is_refused_where_it_stands(asked: ChatRequest, param: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        asked.canonical()
    assert refusal.value.param == param


def test_a_message_that_names_a_field_twice_has_it_once() -> None:
    """Parsers differ in which one they take."""
    twice = b'{"model":"m","messages":[{"role":"user","content":"a","content":"' + b"b" * 50 + b'"}]}'
    understood = ChatRequest.parse(twice).canonical()
    sent = encode_fields(understood.fields, {})
    assert sent.count(b'"content"') == 1
    assert json.loads(sent)["messages"][0]["content"] == understood.messages[0].content


def test_the_bound_on_a_prompt_knows_numbers_that_grow_when_written() -> None:
    calls = '[{"id":"c","type":"function","function":{"name":"f","arguments":"{}"},"index":[' + "1e15," * 999 + "1]}]"
    body = '{"model":"m","messages":[{"role":"assistant","content":"a","tool_calls":' + calls + "}]}"
    understood = ChatRequest.parse(body.encode()).canonical()
    assert understood.prompt_tokens_upper_bound() > len(encode_fields(understood.fields, {})) > 15_000


@pytest.mark.parametrize("name", ["Model", "MAX_TOKENS", "N", "Stream", "service_Tier", "Messages"])
def test_another_spelling_of_a_field_that_costs_is_refused_for_everybody(name: str) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], name: 1}
    with pytest.raises(InvalidRequest) as refusal:
        ChatRequest.parse(json.dumps(body).encode())
    assert refusal.value.param == name


@pytest.mark.parametrize("name", ["(images)", "(raw)", "(fields)"])
def test_what_only_we_know_of_a_request_is_not_read_from_its_body(name: str) -> None:
    """A picture's price times minus a million would be a large credit."""
    value = {"(images)": -1_000_000, "(raw)": "", "(fields)": {}}[name]
    plain = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    found = ChatRequest.parse(json.dumps({**plain, name: value}).encode())
    assert found.images == 0
    assert found.prompt_tokens_upper_bound() > 0
    assert len(found.raw) > 60
    assert set(found.fields) == {"model", "messages", name}

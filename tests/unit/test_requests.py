"""Requests of callers: the bounds of each field, the gateway's reading of them, and the bytes that go on."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from app.domain.chat import ChatRequest, Draft, EmbedRequest
from app.domain.generation import IMAGE_CEILING_TOKENS
from app.errors import InvalidRequest

HELLO = {"role": "user", "content": "Hello"}
INLINE = "data:image/png;base64," + "A" * 4000
PICTURE = {"type": "image_url", "image_url": {"url": INLINE}}
LINKED = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "messages": [HELLO], **fields}).encode()


def refusal(parse: Any, raw: bytes) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse(raw)
    return caught.value


@pytest.mark.parametrize(
    ("field", "smallest", "too_small"),
    [
        ("temperature", 0, -0.01),
        ("top_p", 0, -0.01),
        ("n", 1, 0),
        ("max_tokens", 1, 0),
        ("max_completion_tokens", 1, 0),
    ],
)
def test_a_number_that_is_too_small_is_refused_by_name(field: str, smallest: float, too_small: float) -> None:
    assert getattr(ChatRequest.parse(body(**{field: smallest})), field) == smallest
    assert refusal(ChatRequest.parse, body(**{field: too_small})).param == field


@pytest.mark.parametrize(
    ("field", "largest", "too_large"),
    [
        ("temperature", 2, 2.01),
        ("top_p", 1, 1.01),
        ("n", 128, 129),
        ("max_tokens", 10_000_000, 10_000_001),
        ("max_completion_tokens", 10_000_000, 10_000_001),
    ],
)
def test_a_number_that_is_too_large_is_refused_by_name(field: str, largest: float, too_large: float) -> None:
    assert getattr(ChatRequest.parse(body(**{field: largest})), field) == largest
    assert refusal(ChatRequest.parse, body(**{field: too_large})).param == field


@pytest.mark.parametrize(("field", "longest"), [("model", 256), ("user", 512)])
def test_names_have_a_longest_length(field: str, longest: int) -> None:
    embeddings = {"model": "m", "input": "x"}
    for parse, fields in ((ChatRequest.parse, {}), (EmbedRequest.parse, embeddings)):
        assert getattr(parse(body(**{**fields, field: "x" * longest})), field) == "x" * longest
        assert refusal(parse, body(**{**fields, field: "x" * (longest + 1)})).param == field
        assert refusal(parse, body(**{**fields, field: "a\x00b"})).param == field


def test_a_request_needs_a_message_and_embeddings_a_model() -> None:
    assert refusal(ChatRequest.parse, json.dumps({"model": "m"}).encode()).param == "messages"
    assert refusal(ChatRequest.parse, body(messages=[])).param == "messages"
    assert refusal(ChatRequest.parse, body(model="")).param == "model"
    assert refusal(EmbedRequest.parse, body(input="x", model="")).param == "model"
    assert refusal(EmbedRequest.parse, b'{"input": "x"}').param == "model"
    assert refusal(EmbedRequest.parse, b'{"input": "x", "model": null}').param == "model"


def test_a_chat_request_need_not_name_a_model() -> None:
    assert ChatRequest.parse(json.dumps({"messages": [HELLO]}).encode()).model == ""
    assert ChatRequest.parse(body(model=None)).model == ""
    assert ChatRequest.parse(body()).model == "m"


def test_what_is_wrong_is_named_where_it_stands() -> None:
    error = refusal(ChatRequest.parse, body(messages=[HELLO, {"role": "pirate", "content": "Arr"}]))
    assert error.param == "messages[1].role"
    assert "`messages[1].role`" in error.message
    error = refusal(ChatRequest.parse, body(messages=[{"content": "x"}]))
    assert (error.param, error.message) == ("messages[0].role", "Missing required field: `messages[0].role`.")
    assert refusal(ChatRequest.parse, b"[1]").message == "The request body must be a JSON object."
    for nonsense in (b"{", b'{"model": ', b"\xff", b'{"a":' * 100_000, b'{"model":"\xff"}'):
        assert refusal(ChatRequest.parse, nonsense).message.startswith("The request body is not valid JSON")


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant", "tool", "function"])
def test_every_role_of_the_api_is_known(role: str) -> None:
    assert ChatRequest.parse(body(messages=[{"role": role, "content": "x"}])).messages[0].role == role


@pytest.mark.parametrize("given", ["one", ["one", "two"], [1, 2, 3], [[1, 2], [3]]])
def test_embeddings_take_a_text_many_texts_or_tokens(given: Any) -> None:
    request = EmbedRequest.parse(json.dumps({"model": "m", "input": given}).encode())
    assert request.input == given
    assert request.estimate_prompt_tokens() == len(request.raw) // 4 + 1
    assert request.prompt_tokens_upper_bound() == len(request.raw)


@pytest.mark.parametrize("given", ["", [], ["x"] * 2049, None, 7])
def test_embeddings_of_nothing_or_of_too_much_are_refused(given: Any) -> None:
    assert refusal(EmbedRequest.parse, json.dumps({"model": "m", "input": given}).encode()).param == "input"


def test_the_bounds_and_choices_that_a_caller_sets() -> None:
    assert ChatRequest.parse(body()).max_output_tokens is None
    assert ChatRequest.parse(body(max_tokens=5)).max_output_tokens == 5
    assert ChatRequest.parse(body(max_completion_tokens=6)).max_output_tokens == 6
    assert [ChatRequest.parse(body(**more)).choices for more in ({}, {"n": 1}, {"n": 3})] == [1, 1, 3]
    usage = [None, {}, {"include_usage": False}, {"include_usage": True}]
    asked = [ChatRequest.parse(body(stream_options=options)).include_usage for options in usage]
    assert asked == [False, False, False, True]


def test_a_prompts_length_is_told_from_its_bytes_and_pictures() -> None:
    plain = ChatRequest.parse(body(messages=[HELLO, HELLO]))
    assert plain.estimate_prompt_tokens() == len(plain.raw) // 4 + 1
    assert plain.prompt_tokens_upper_bound() == len(plain.raw) + 2 * 8
    text = {"type": "text", "text": "What is this?"}
    pictures = ChatRequest.parse(body(messages=[{"role": "user", "content": [text, PICTURE, LINKED]}]))
    size = len(pictures.raw) - len(INLINE)
    assert pictures.images == 2
    assert pictures.estimate_prompt_tokens() == size // 4 + 2 * 1000 + 1
    assert pictures.prompt_tokens_upper_bound() == size + 2 * IMAGE_CEILING_TOKENS + 8
    assert IMAGE_CEILING_TOKENS == 50_000
    [message] = pictures.messages
    assert message.estimate_tokens(5000) == (5000 - len(INLINE)) // 4 + 2 * 1000 + 1
    assert plain.messages[0].estimate_tokens(40) == 11
    assert message.texts == ["What is this?"]
    assert plain.messages[0].texts == ["Hello"]


def test_a_draft_changes_what_it_is_told_to_and_keeps_every_other_byte() -> None:
    odd = b'{"model":"m","temperature":0.10,"seed":12345678901234567890123,"messages":[{"role":"user","content":"a"}]}'
    draft = Draft(ChatRequest.parse(odd))
    draft.set("model", "n")
    draft.set("max_tokens", 7)
    request = draft.request
    assert (request.model, request.max_tokens, request.temperature) == ("n", 7, 0.1)
    assert request.raw == odd.replace(b'"m"', b'"n"', 1)[:-1] + b',"max_tokens":7}'
    assert ChatRequest.parse(request.raw) == request


def test_a_draft_that_drops_messages_forgets_their_pictures() -> None:
    with_picture = {"role": "user", "content": [PICTURE]}
    draft = Draft(ChatRequest.parse(body(messages=[with_picture, HELLO])))
    raw = [msgspec.Raw(json.dumps(message).encode()) for message in (with_picture, HELLO)]
    draft.keep_messages([1], raw)
    assert draft.request.images == 0
    assert [message.texts for message in draft.request.messages] == [["Hello"]]
    assert json.loads(draft.request.raw)["messages"] == [HELLO]
    assert draft.request.estimate_prompt_tokens() == len(draft.request.raw) // 4 + 1

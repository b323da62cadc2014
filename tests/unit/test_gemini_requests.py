"""Gemini requests as admission sees them, and as they pass to a vendor of the same dialect."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.domain.content import Opaque, Thinking, ToolCall
from app.domain.gemini import GeminiRequest
from app.errors import InvalidRequest
from app.providers.dialects.dialect import Outgoing
from app.providers.dialects.gemini import DIALECT, signatures

HELLO: dict[str, Any] = {"contents": [{"role": "user", "parts": [{"text": "hello"}]}]}
PICTURE = {"mimeType": "image/png", "data": "A" * 4000}


def parse(body: Any, model: str = "gemini-3-pro", stream: bool = False) -> GeminiRequest:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return GeminiRequest.parse(raw, model, stream)


def target(**changes: Any) -> Outgoing:
    return Outgoing(**{"origin": "google", "model": "gemini-3-pro", "stream": False, **changes})


def passed(body: Any, **changes: Any) -> Any:
    return json.loads(DIALECT.pass_request(parse(body), target(**changes)))


@pytest.mark.parametrize(
    "body",
    [
        {"generationConfig": {"temperature": 0.5, "maxOutputTokens": 9, "candidateCount": 2}, "serviceTier": "FLEX"},
        {
            "generation_config": {"temperature": 0.5, "max_output_tokens": 9, "candidate_count": 2},
            "service_tier": "flex",
        },
    ],
)
def test_both_spellings_of_a_field_are_read(body: dict[str, Any]) -> None:
    request = parse({**HELLO, **body, "systemInstruction": {"parts": {"text": "be brief"}}})
    assert (request.temperature, request.max_output_tokens, request.choices) == (0.5, 9, 2)
    assert request.service_tier == "flex"
    assert request.texts == ["be brief", "hello"]
    assert request.completion_tokens_upper_bound(9) == 18
    assert "generationConfig" in request.fields


def test_a_single_object_stands_for_a_list_of_one() -> None:
    request = parse({"contents": {"parts": {"text": "hello"}}})
    assert request.texts == ["hello"]
    assert request.message_count == 1


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"{", None),
        (b"[]", None),
        ({}, "contents"),
        ({"contents": []}, "contents"),
        ({"contents": "hello"}, "contents"),
        ({"contents": [{"parts": [{"text": 1}]}]}, "contents[0].parts[0].text"),
        ({**HELLO, "generationConfig": {"maxOutputTokens": 0}}, "generationConfig.maxOutputTokens"),
        ({**HELLO, "generationConfig": {"temperature": 3}}, "generationConfig.temperature"),
        ({**HELLO, "generationConfig": {"candidateCount": 1000}}, "generationConfig.candidateCount"),
        ({**HELLO, "generationConfig": {}, "generation_config": {}}, "generationConfig"),
    ],
)
def test_a_wrong_field_is_named(body: Any, param: str | None) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(body)
    assert caught.value.param == param


@pytest.mark.parametrize("model", ["", "a" * 300, "a\x00b"])
def test_a_path_without_a_usable_model_is_refused(model: str) -> None:
    with pytest.raises(InvalidRequest):
        parse(HELLO, model)


def test_media_are_counted_in_both_spellings_and_sound_by_its_bytes() -> None:
    parts = [
        {"inlineData": PICTURE},
        {"inline_data": {"mime_type": "audio/wav", "data": "A" * 1000}},
        {"file_data": {"file_uri": "gs://bucket/film.mp4"}},
    ]
    request = parse({"contents": [{"parts": parts}]})
    assert (request.images, request.inline_bytes, request.sound_bytes) == (2, 5000, 1000)
    assert request.estimate_prompt_tokens() < 2200
    assert request.prompt_tokens_upper_bound() > 2 * 50_000 + 1000


@pytest.mark.parametrize("kind", ["text/plain", "Text/HTML", "application/json", "image/svg+xml", ""])
def test_inline_text_is_bounded_by_its_base64(kind: str) -> None:
    request = parse({"contents": [{"parts": [{"inlineData": {"mimeType": kind, "data": "A" * 400_000}}]}]})
    assert (request.images, request.inline_bytes, request.sound_bytes) == (0, 0, 0)
    assert request.prompt_tokens_upper_bound() > 400_000


UNBOUNDED: list[tuple[dict[str, Any], str]] = [
    ({"cachedContent": "cachedContents/x"}, "cachedContent"),
    ({"cached_content": "cachedContents/x"}, "cachedContent"),
    ({"contents": [{"parts": [{"fileData": {"fileUri": "gs://x"}}]}]}, "contents[0].parts[0].fileData"),
    ({"contents": [{"parts": [{"file_data": {"fileUri": "gs://x"}}]}]}, "contents[0].parts[0].fileData"),
    ({"continuationToken": "x"}, "continuationToken"),
    ({"continuation_token": "x"}, "continuationToken"),
    *(
        (
            {"contents": [{"parts": [{"inlineData": {"mimeType": kind, "data": data}}]}]},
            "contents[0].parts[0].inlineData",
        )
        for kind, data in [
            ("video/mp4", "AA"),
            ("audio/flac", "AA"),
            ("audio/ogg; codecs=FLAC", "AA"),
            ("audio/wav", "ZkxhQwAAACI="),
        ]
    ),
    (
        {"contents": [{"parts": [{"functionResponse": {"name": "f", "parts": [{"inlineData": PICTURE}]}}]}]},
        "contents[0].parts[0].functionResponse.parts[0]",
    ),
    ({"generationConfig": {"MaxOutputTokens": 9}}, "generationConfig.MaxOutputTokens"),
    ({"generationconfig": {"maxOutputTokens": 9}}, "generationconfig"),
    ({"contents": [{"parts": [{"FileData": {}}]}]}, "contents[0].parts[0].FileData"),
]


@pytest.mark.parametrize(("body", "param"), UNBOUNDED)
def test_a_budget_refuses_content_without_a_bound_on_its_cost(body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse({**HELLO, **body}).canonical()
    assert caught.value.param == param


def test_under_a_budget_each_field_goes_out_once_and_in_one_spelling() -> None:
    raw = (
        b'{"contents":[{"parts":[{"inl\\u0069ne_data":{"mime_type":"image/png","data":"AAAA"}}]}],'
        b'"generation_config":{"max_output_tokens":5,"max_output_tokens":7}}'
    )
    request = parse(raw).canonical()
    assert request.images == 1
    assert request.max_output_tokens == 7
    assert json.loads(DIALECT.pass_request(request, target())) == {
        "contents": [{"parts": [{"inlineData": {"mimeType": "image/png", "data": "AAAA"}}]}],
        "generationConfig": {"maxOutputTokens": 7},
    }


def test_a_request_passes_with_its_values_untouched() -> None:
    raw = b'{"contents":[ {"parts":[{"text":"\\u0061 1.0e2"}],"x":1.50} ],"unknown":{"b":1,"a":2},"model":"models/x"}'
    assert DIALECT.pass_request(parse(raw), target()) == (
        b'{"contents":[ {"parts":[{"text":"\\u0061 1.0e2"}],"x":1.50} ],"unknown":{"b":1,"a":2}}'
    )


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"generationConfig": None},
        {"generationConfig": {"topP": 1}},
        {"generation_config": {"max_output_tokens": 99}},
    ],
)
def test_a_bound_replaces_the_callers_own(config: dict[str, Any]) -> None:
    sent = passed({**HELLO, **config}, max_output_tokens=10)["generationConfig"]
    assert sent.pop("maxOutputTokens") == 10
    assert sent in ({}, {"topP": 1})


def test_a_carrier_is_opened_for_its_own_provider_and_replaced_for_another() -> None:
    own = signatures.write(Opaque("google", signatures.KIND, "c2ln"))
    foreign = signatures.write_call(
        ToolCall(id="a", name="f"), [Thinking(text="hm", signature=Opaque("anthropic", "signature", "x"))]
    )
    call = {"name": "f", "args": {"x": 1.5}}
    parts = [
        {"functionCall": call, "thoughtSignature": own},
        {"functionCall": call, "thought_signature": foreign},
        {"text": "x", "thoughtSignature": foreign},
        {"text": "y", "thoughtSignature": "bmF0aXZl"},
    ]
    sent = passed({"contents": [{"role": "model", "parts": parts}]})["contents"][0]["parts"]
    assert sent == [
        {"functionCall": call, "thoughtSignature": "c2ln"},
        {"functionCall": call, "thoughtSignature": signatures.DUMMY},
        {"text": "x"},
        {"text": "y", "thoughtSignature": "bmF0aXZl"},
    ]


@pytest.mark.parametrize(
    ("model", "stream", "path"),
    [
        ("gemini-3-pro", False, "/models/gemini-3-pro:generateContent"),
        ("gemini-3-pro", True, "/models/gemini-3-pro:streamGenerateContent?alt=sse"),
        ("tunedModels/mine", False, "/tunedModels/mine:generateContent"),
        ("a?b#c", False, "/models/a%3Fb%23c:generateContent"),
    ],
)
def test_the_model_stands_in_the_path(model: str, stream: bool, path: str) -> None:
    assert DIALECT.path(model, stream) == path

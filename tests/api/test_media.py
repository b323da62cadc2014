"""Moderations, speech, transcriptions and pictures: what the vendor gets, what the caller gets, and what it costs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

import pytest
from werkzeug.datastructures import FileStorage
from werkzeug.test import encode_multipart

from app.domain.generation import IMAGE_CEILING_TOKENS
from app.domain.media import MediaRequest
from tests.api.conftest import AppClient
from tests.support.media_vendor import MediaVendor, media_vendor
from tests.support.response import AppResponse
from tests.unit.test_recordings import wav

CONFIG = """
providers:
  up: {kind: openai, base_url: "%s", api_key: sk-up-12345678}
  back: {kind: openai, base_url: "%s"}
  demo: {kind: demo}
models:
  chat: {targets: [demo]}
  hear: {kind: audio, targets: [{provider: up, model: whisper-1}]}
  hear4: {kind: audio, targets: [{provider: up, model: gpt-4o-transcribe}]}
  speak: {kind: audio, targets: [{provider: up, model: tts-1}]}
  draw: {kind: image, targets: [{provider: up, model: gpt-image-1.5}], max_output_tokens: 20000}
  flux: {kind: image, targets: [{provider: up, model: flux}]}
  odd: {kind: image, targets: [{provider: up, model: unknown-model}]}
  judge: {kind: moderation, targets: [{provider: up, model: omni}]}
  twice: {kind: image, targets: [up], fallbacks: [back], max_output_tokens: 20000}
  demo: {targets: [demo]}
plans:
  default: {}
  poor: {budget_usd_per_day: 1}
retry: {max_attempts: 2, backoff_s: 0}
"""
PRICES = """
up: {flux: {image: 40000}, omni: {prompt: 0}, gpt-image-1: {prompt: 5, image_prompt: 10, completion: 40}}
back: {"*": {prompt: 0}}
"""
TRANSCRIPT = {"text": "Hello.", "usage": {"type": "duration", "seconds": 3}}
PICTURES: dict[str, Any] = {
    "created": 1,
    "data": [{"b64_json": "AAAA"}, {"b64_json": "BBBB"}],
    "usage": {
        "input_tokens": 50,
        "output_tokens": 4160,
        "total_tokens": 4210,
        "input_tokens_details": {"image_tokens": 20, "text_tokens": 30},
    },
}


@pytest.fixture
def vendor() -> Iterator[MediaVendor]:
    with media_vendor() as vendor:
        yield vendor


@pytest.fixture
def spare() -> Iterator[MediaVendor]:
    with media_vendor() as vendor:
        yield vendor


@pytest.fixture
def client(vendor: MediaVendor, spare: MediaVendor, client_with: Callable[..., AppClient]) -> AppClient:
    config = (CONFIG % (vendor.url, spare.url)).replace(
        "api_key: sk-up-12345678", "api_key: sk-up-12345678, prices: openai"
    )
    return client_with(config, PRICES)


@pytest.fixture
def poor(client: AppClient) -> str:
    return client.services.keys.create(name="poor", plan="poor")[0]


def post(client: AppClient, endpoint: str, body: dict[str, Any], **options: Any) -> AppResponse:
    return client.post(json.dumps(body), path=f"/v1/{endpoint}", **options)


def send(
    client: AppClient, endpoint: str, fields: dict[str, Any], files: dict[str, tuple[str, bytes]], **options: Any
) -> AppResponse:
    sent = {name: FileStorage(BytesIO(data), filename) for name, (filename, data) in files.items()}
    values: dict[str, Any] = {**fields, **sent}
    boundary, body = encode_multipart(values)
    content_type = f"multipart/form-data; boundary={boundary}"
    return client.post(body, path=f"/v1/{endpoint}", content_type=content_type, **options)


def row(client: AppClient) -> dict[str, Any]:
    (only,) = client.rows()
    return only


def test_a_recording_is_transcribed_and_billed_by_the_second(client: AppClient, vendor: MediaVendor) -> None:
    vendor.say(TRANSCRIPT)
    sound = wav(3)
    fields = {"model": "hear", "language": "en", "include[]": ["logprobs", "x"]}
    answer = send(client, "audio/transcriptions", fields, {"file": ("a.wav", sound)})
    assert answer.json == TRANSCRIPT
    assert answer.headers["x-penstock-model"] == "hear"
    (request,) = vendor.requests
    assert request.path == "/v1/audio/transcriptions"
    assert request.headers["authorization"] == "Bearer sk-up-12345678"
    texts, files = request.form()
    assert texts == {"model": ["whisper-1"], "language": ["en"], "include[]": ["logprobs", "x"]}
    assert files == {"file": sound}
    found = row(client)
    assert (found["endpoint"], found["audio_seconds"], found["cost_nanousd"]) == ("audio.transcriptions", 3, 300_000)
    assert (found["unpriced"], found["estimated"], found["status"]) == (False, False, "ok")
    assert answer.headers["x-penstock-cost-usd"] == "0.0003"


def test_a_transcript_without_usage_costs_what_its_recording_is_long(client: AppClient, vendor: MediaVendor) -> None:
    vendor.say(b"Hello.\n", "text/plain; charset=utf-8")
    fields = {"model": "hear", "response_format": "text"}
    answer = send(client, "audio/translations", fields, {"file": ("a.wav", wav(10))})
    assert (answer.text, answer.headers["content-type"]) == ("Hello.\n", "text/plain; charset=utf-8")
    found = row(client)
    assert (found["endpoint"], found["estimated"]) == ("audio.translations", True)
    assert 1_000_000 <= found["cost_nanousd"] <= 1_100_000


def test_a_transcript_billed_by_the_token_costs_its_tokens(client: AppClient, vendor: MediaVendor) -> None:
    tokens = {"type": "tokens", "input_tokens": 100, "output_tokens": 20, "total_tokens": 120}
    vendor.say({"text": "x", "usage": {**tokens, "input_token_details": {"audio_tokens": 90, "text_tokens": 10}}})
    send(client, "audio/transcriptions", {"model": "hear4"}, {"file": ("a.wav", wav(1))})
    found = row(client)
    # $2.50 text and $6 sound in, $10 out, a million
    assert found["cost_nanousd"] == 10 * 2500 + 90 * 6000 + 20 * 10_000
    assert (found["prompt_tokens"], found["completion_tokens"], found["audio_prompt_tokens"]) == (100, 20, 90)


def test_pictures_cost_what_the_vendor_says_it_used(client: AppClient, vendor: MediaVendor) -> None:
    vendor.say(PICTURES)
    answer = post(client, "images/generations", {"model": "draw", "prompt": "a cat", "n": 2, "odd": {"b": 1.0}})
    assert answer.json == PICTURES
    assert vendor.requests[0].json == {"model": "gpt-image-1.5", "prompt": "a cat", "n": 2, "odd": {"b": 1.0}}
    found = row(client)
    # $5 text, $8 picture in, $32 picture out, a million
    assert found["cost_nanousd"] == 30 * 5000 + 20 * 8000 + 4160 * 32_000
    assert (found["images"], found["image_completion_tokens"], found["endpoint"]) == (2, 4160, "images.generations")


@pytest.mark.parametrize("endpoint", ["images/edits", "images/variations"])
def test_pictures_are_sent_along_in_a_form(client: AppClient, vendor: MediaVendor, endpoint: str) -> None:
    vendor.say({"created": 1, "data": [{"url": "https://x/y.png"}]})
    files = {"image": ("a.png", b"\x89PNG1"), "mask": ("m.png", b"\x89PNG2")}
    answer = send(client, endpoint, {"model": "flux", "prompt": "hat", "n": "1"}, files)
    assert answer.status_code == 200, answer.text
    assert vendor.requests[0].form() == (
        {"model": ["flux"], "prompt": ["hat"], "n": ["1"]},
        {"image": b"\x89PNG1", "mask": b"\x89PNG2"},
    )
    assert (row(client)["images"], row(client)["cost_nanousd"]) == (1, 40_000_000), "four cents a picture"


def test_speech_passes_while_it_is_made_and_is_billed_by_the_character(client: AppClient, vendor: MediaVendor) -> None:
    vendor.stream(b"ID3", b"\0" * 100_000, b"\xff", content_type="audio/mpeg")
    answer = post(client, "audio/speech", {"model": "speak", "input": "Grüße, Welt", "voice": "alloy"})
    assert (answer.get_data(), answer.headers["content-type"]) == (b"ID3" + b"\0" * 100_000 + b"\xff", "audio/mpeg")
    found = row(client)
    assert (found["characters"], found["cost_nanousd"]) == (11, 11 * 15_000), "$15 a million"
    assert (found["status"], found["endpoint"], found["unpriced"]) == ("ok", "audio.speech", False)


def test_a_moderation_is_free_and_names_a_model_of_its_kind(client: AppClient, vendor: MediaVendor) -> None:
    vendor.say({"id": "modr-1", "model": "omni", "results": [{"flagged": True}]})
    answer = post(client, "moderations", {"input": "bad words"})
    assert answer.json["results"] == [{"flagged": True}]
    assert vendor.requests[0].json == {"model": "omni", "input": "bad words"}
    found = row(client)
    assert (found["model"], found["endpoint"], found["cost_nanousd"]) == ("judge", "moderations", 0)


EVENTS = [
    b'event: image_generation.partial_image\ndata: {"type":"image_generation.partial_image","b64_json":"%b"}\n\n'
    % (b"A" * 90_000),
    b'event: image_generation.completed\r\ndata: {"type":"image_generation.completed","b64_json":"BB","usage":'
    b'{"input_tokens":50,"output_tokens":100,"total_tokens":150,"input_tokens_details":{"image_tokens":0,"text_tokens":50}}}'
    b"\r\n\r\n",
]


def test_events_of_pictures_pass_as_they_are_and_their_usage_is_read(client: AppClient, vendor: MediaVendor) -> None:
    whole = b"".join(EVENTS)
    vendor.stream(whole[:10], whole[10:70_000], whole[70_000:-5], whole[-5:])
    answer = post(
        client, "images/generations", {"model": "draw", "prompt": "a cat", "stream": True, "partial_images": 1}
    )
    assert answer.get_data() == whole
    assert answer.headers["content-type"] == "text/event-stream"
    assert "x-penstock-cost-usd" not in answer.headers
    found = row(client)
    assert (found["status"], found["streamed"], found["completion_tokens"]) == ("ok", True, 100)
    assert found["cost_nanousd"] == 50 * 5000 + 100 * 32_000


@pytest.mark.parametrize("whole", [True, False])
def test_events_that_break_off_end_in_an_error_and_are_charged(
    client: AppClient, vendor: MediaVendor, whole: bool
) -> None:
    vendor.stream(EVENTS[0], EVENTS[1][:50], whole=whole)
    answer = post(client, "images/generations", {"model": "draw", "prompt": "a cat", "stream": True})
    sent = answer.get_data()
    assert sent.startswith(EVENTS[0])
    error = json.loads(sent.removeprefix(EVENTS[0]).removeprefix(b"data: "))
    assert error["error"]["code"]
    found = row(client)
    assert (found["status"], found["estimated"]) == ("error", True)
    assert found["cost_nanousd"] > 0


def test_an_error_among_events_is_told_and_not_passed_on(client: AppClient, vendor: MediaVendor) -> None:
    vendor.stream(EVENTS[0], b'event: error\ndata: {"type":"error","error":{"message":"sk-secret123456"}}\n\n')
    sent = post(client, "images/generations", {"model": "draw", "prompt": "a cat", "stream": True}).get_data()
    assert b"sk-secret" not in sent
    assert json.loads(sent.removeprefix(EVENTS[0]).removeprefix(b"data: "))["error"]
    assert row(client)["status"] == "error"


def test_sound_that_breaks_off_breaks_off_for_the_client(client: AppClient, vendor: MediaVendor) -> None:
    vendor.stream(b"ID3", content_type="audio/mpeg", whole=False)
    with pytest.raises(ConnectionAbortedError):
        post(client, "audio/speech", {"model": "speak", "input": "Hello", "voice": "alloy"})
    assert (row(client)["status"], row(client)["characters"]) == ("error", 5)


def test_another_target_takes_over_when_the_first_is_down(
    client: AppClient, vendor: MediaVendor, spare: MediaVendor
) -> None:
    vendor.say({"error": {"message": "down"}}, status=503)
    spare.stream(*EVENTS)
    answer = post(client, "images/generations", {"model": "twice", "prompt": "a cat", "stream": True})
    assert answer.get_data() == b"".join(EVENTS)
    assert answer.headers["x-penstock-provider"] == "back"
    assert (row(client)["attempts"], len(vendor.requests), len(spare.requests)) == (2, 1, 1)


def test_what_the_vendor_refuses_is_told_and_costs_nothing(client: AppClient, vendor: MediaVendor) -> None:
    vendor.say({"error": {"message": "No such voice.", "param": "voice", "type": "x", "code": None}}, status=400)
    answer = post(client, "audio/speech", {"model": "speak", "input": "Hello", "voice": "x"})
    assert (answer.status_code, answer.json["error"]["message"], answer.json["error"]["param"]) == (
        400,
        "No such voice.",
        "voice",
    )
    assert row(client)["cost_nanousd"] == 0


def test_an_unknown_price_is_flagged_and_refused_under_a_budget(
    client: AppClient, vendor: MediaVendor, poor: str
) -> None:
    vendor.say({"created": 1, "data": [{"url": "https://x/y.png"}]})
    body = {"model": "odd", "prompt": "a cat"}
    assert post(client, "images/generations", body).status_code == 200
    assert row(client)["unpriced"] is True
    refused = post(client, "images/generations", body, key=poor)
    assert (refused.status_code, len(vendor.requests)) == (403, 1)
    refused = post(client, "images/generations", {"model": "draw", "prompt": "a", "svg": {"model": "gpt-6"}}, key=poor)
    assert (refused.status_code, refused.json["error"]["param"]) == (403, "svg")


@pytest.mark.parametrize(
    ("more", "pictures"),
    [
        ({}, 0),
        ({"images": [{"file_id": "f-1"}], "image": None, "mask": None}, 1),
        ({"images": [{"file_id": "f-1"}], "mask": {"image_url": "https://x/y.png"}}, 2),
        ({"image": [{"file_id": "f-1"}, {"file_id": "f-2"}], "mask": {"file_id": "f-3"}}, 3),
        ({"image": "https://x/y.png"}, 1),
    ],
)
def test_every_picture_sent_by_reference_counts(more: dict[str, Any], pictures: int) -> None:
    body = json.dumps({"model": "draw", "prompt": "a", **more}).encode()
    request = MediaRequest.parse("images.edits", body, "application/json")
    assert request.prompt_tokens_upper_bound() == len(body) + pictures * IMAGE_CEILING_TOKENS


def test_a_recording_costs_a_budget_the_most_that_it_can_be(client: AppClient, vendor: MediaVendor, poor: str) -> None:
    vendor.say(b"Hello.\n", "text/plain; charset=utf-8")
    fields = {"model": "hear", "response_format": "text"}
    forged = b"\xff\xfb\xe0\x00" + b"\0" * 1040 + (b"\xff\xe3\x18\x00" + b"\0" * 68) * 1000  # 72 s
    assert send(client, "audio/transcriptions", fields, {"file": ("a.mp3", forged)}, key=poor).status_code == 200
    found = row(client)
    assert (found["audio_seconds"], found["cost_nanousd"], found["estimated"]) == (74, 7_400_000, True)
    flac = b"fLaC\x00\x00\x00\x22" + b"\0" * 10 + (44_100 << 44 | 1).to_bytes(8, "big") + b"\0" * 5000
    refused = send(client, "audio/transcriptions", fields, {"file": ("a.flac", flac)}, key=poor)
    assert (refused.status_code, refused.json["error"]["param"], len(vendor.requests)) == (403, "file", 1)


def test_a_chat_call_to_a_model_billed_by_the_second_has_no_known_price(client: AppClient, poor: str) -> None:
    assert client.chat("hear", key=poor).status_code == 403


@pytest.mark.parametrize(
    ("endpoint", "body", "most"),
    [
        ("images/generations", {"model": "draw", "prompt": "a cat"}, 1),  # $0.64 each at 20,000 tokens
        ("images/generations", {"model": "flux", "prompt": "a cat", "n": 10}, 2),  # $0.40 each
        ("audio/speech", {"model": "speak", "input": "x" * 20_000, "voice": "a"}, 3),  # $0.30 each
    ],
)
def test_a_budget_bounds_media_before_it_is_spent(
    client: AppClient, vendor: MediaVendor, poor: str, endpoint: str, body: dict[str, Any], most: int
) -> None:
    reserved = []
    for _ in range(most + 1):
        vendor.answer = b""  # the connection breaks: the call may be billed at its most
        reserved.append(post(client, endpoint, body, key=poor).status_code)
    assert reserved[-1] == 429, reserved
    assert sum(found["cost_nanousd"] for found in client.rows()) <= 1_000_000_000


@pytest.mark.parametrize(
    ("endpoint", "body", "param"),
    [
        ("images/generations", {"model": "draw"}, "prompt"),
        ("images/generations", {"model": "draw", "prompt": 1}, "prompt"),
        ("images/generations", {"model": "draw", "prompt": "x", "n": 0}, "n"),
        ("images/generations", {"model": "draw", "prompt": "x", "n": "2"}, "n"),
        ("images/generations", {"model": "draw", "prompt": "x", "N": 9}, "N"),
        ("images/generations", {"model": "nowhere", "prompt": "x"}, "model"),
        ("audio/speech", {"model": "speak", "voice": "x"}, "input"),
        ("audio/speech", {"model": "speak", "input": ["x"]}, "input"),
        ("audio/speech", {"input": "x", "model": None, "user": "a\x00"}, "user"),
        ("moderations", {"model": "judge"}, "input"),
    ],
)
def test_a_bad_field_is_named(client: AppClient, endpoint: str, body: dict[str, Any], param: str) -> None:
    answer = post(client, endpoint, body)
    assert (answer.status_code // 100, answer.json["error"]["param"]) == (4, param), answer.text
    assert client.rows() == []


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": ["hear", "hear4"]}, "model"),
        ({"model": "hear", "Model": "hear4"}, "Model"),
        ({"model": "hear", "model[]": "hear4"}, "model[]"),
        ({"model": "hear\x00"}, "model"),
        ({"model": "x" * 300}, "model"),
    ],
)
def test_a_form_that_could_be_read_in_two_ways_is_refused(
    client: AppClient, fields: dict[str, Any], param: str
) -> None:
    answer = send(client, "audio/transcriptions", fields, {"file": ("a.wav", wav(1))})
    assert (answer.status_code, answer.json["error"]["param"]) == (400, param), answer.text


def test_a_form_without_its_file_is_refused(client: AppClient) -> None:
    answer = send(client, "audio/transcriptions", {"model": "hear"}, {"fiel": ("a.wav", b"x")})
    assert (answer.status_code, answer.json["error"]["param"]) == (400, "file")
    assert "There is `fiel` instead." in answer.json["error"]["message"]
    answer = send(client, "audio/transcriptions", {"model": "hear", "file": "text"}, {})
    assert (answer.status_code, answer.json["error"]["message"]) == (400, "Expected a file: `file`.")


@pytest.mark.parametrize(
    ("endpoint", "content_type", "expected"),
    [
        ("audio/transcriptions", "application/json", "multipart/form-data"),
        ("images/generations", "multipart/form-data; boundary=x", "application/json"),
        ("images/edits", "text/plain", "application/json or multipart/form-data"),
    ],
)
def test_a_body_of_another_type_is_refused(client: AppClient, endpoint: str, content_type: str, expected: str) -> None:
    answer = client.post("{}", path=f"/v1/{endpoint}", content_type=content_type)
    assert answer.status_code == 415
    assert answer.json["error"]["message"].startswith(f"Expected Content-Type: {expected};")


@pytest.mark.parametrize("lead", ["", "/v1", "/v1/v1", "/api/v1", "/openai/v1", "//v1"])
def test_media_endpoints_are_found_where_people_look_for_them(
    client: AppClient, vendor: MediaVendor, lead: str
) -> None:
    vendor.say({"id": "modr-1", "results": []})
    headers = {"Authorization": f"Bearer {client.key}", "Content-Type": "application/json"}
    answer = client.send("POST", f"{lead}/moderations/", headers=headers, data='{"input":"x"}')
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("moderations", {"input": ["a", "b"]}),
        ("audio/speech", {"input": "Hello there", "voice": "alloy"}),
        ("audio/speech", {"input": "Hello there", "voice": "alloy", "stream_format": "sse"}),
        ("images/generations", {"prompt": "a cat", "n": 2}),
        ("images/generations", {"prompt": "a cat", "stream": True}),
        ("images/edits", {"prompt": "a cat", "images": [{"file_id": "file-1"}]}),
    ],
)
def test_the_demo_model_answers_every_endpoint(client: AppClient, endpoint: str, body: dict[str, Any]) -> None:
    answer = post(client, endpoint, {"model": "demo", **body})
    assert answer.status_code == 200, answer.text
    assert answer.get_data()
    assert (row(client)["status"], row(client)["cost_nanousd"]) == ("ok", 0)
    streamed = "text/event-stream" if "stream" in body or "stream_format" in body else ""
    assert answer.headers["content-type"].startswith(streamed)


def test_the_demo_model_tells_the_length_of_a_recording(client: AppClient) -> None:
    for more in ({}, {"stream": "true"}, {"response_format": "vtt"}):
        answer = send(client, "audio/transcriptions", {"model": "demo", **more}, {"file": ("a.wav", wav(4))})
        assert "The recording has 5 seconds." in answer.text

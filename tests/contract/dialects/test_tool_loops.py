"""Tool loops through every pair of dialects and back: ids stay paired, and reasoning returns to its vendor."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from app.domain.content import Answer, Prompt
from app.providers.dialects import DIALECTS
from tests.support.dialects.answers import stream, whole
from tests.support.dialects.calls import (
    NAMES,
    ORIGIN,
    decode,
    decode_stream,
    encode,
    encode_answer,
    encode_stream,
    judge,
    parse,
    target,
)
from tests.support.dialects.meaning import turns
from tests.support.dialects.replay import next_turn
from tests.support.dialects.sdks import collected, hear
from tests.support.vendors.play import Call, Offered, Turn

PROMPT = Prompt(model="m", messages=())
WEATHER = Offered("weather", {"type": "object", "properties": {"city": {"type": "string"}}})
CITIES = ("Ulm", "Bonn", "Trier")
# Ids of three parallel calls. "-" is the played vendors' word for an empty one.
IDS = {
    "kimi": ("functions.Bash:0", "functions.Bash:1", "functions.Bash:2"),
    "200 characters": ("a" * 199 + "0", "a" * 199 + "1", "b" * 200),
    "empty": ("-", "-", "-"),
    "twice": ("call_1", "call_1", "call_2"),
    "emoji": ("call🔧1", "call🔧2", "🔧"),
    "valid": ("call_1", "call_2", "call_3"),
}
PAIRS = [pytest.param(vendor, caller, id=f"{vendor} to {caller}") for vendor in NAMES for caller in NAMES]


def turn_of(ids: tuple[str, ...], **fields: Any) -> Turn:
    calls = tuple(Call(call_id, WEATHER, {"city": city}) for call_id, city in zip(ids, CITIES, strict=False))
    return Turn(id="000001", model="plain", calls=calls, stop="tool_calls", **fields)


def answer_of(vendor: str, turn: Turn) -> Answer:
    return DIALECTS[vendor].decode_answer(msgspec.json.encode(whole(vendor, turn)), ORIGIN)


@pytest.mark.parametrize(("vendor", "caller"), PAIRS)
@pytest.mark.parametrize("ids", IDS)
def test_results_find_their_calls_whatever_the_ids(ids: str, vendor: str, caller: str) -> None:
    turn = turn_of(IDS[ids])
    given = encode_answer(caller, answer_of(vendor, turn), PROMPT)
    asked = decode(caller, next_turn(caller, given, ["fog", "sun", "ice"]))
    body = encode(vendor, asked)
    judge(vendor, body)
    calls = [("call", n, "weather", json.dumps({"city": city})) for n, city in enumerate(CITIES)]
    results = [("result", n, (("text", text),)) for n, text in ((2, "ice"), (1, "sun"), (0, "fog"))]
    assert turns(decode(vendor, body))[1:] == [("assistant", calls), ("user", results)]


@pytest.mark.parametrize(("vendor", "caller"), PAIRS)
@pytest.mark.parametrize("ids", IDS)
def test_a_stream_gives_the_same_ids_as_a_whole_answer(ids: str, vendor: str, caller: str) -> None:
    turn = turn_of(IDS[ids])
    events, _ = decode_stream(vendor, stream(vendor, turn))
    streamed = hear(caller, encode_stream(caller, events, PROMPT)).ids
    assert streamed == hear(caller, encode_answer(caller, answer_of(vendor, turn), PROMPT)).ids
    assert len(set(streamed)) == 3


def blobs(body: Any, key: str = "") -> list[str]:
    """Returns the data in a request that only a vendor can read."""
    if isinstance(body, dict):
        return [blob for name, value in body.items() for blob in blobs(value, name)]
    if isinstance(body, list):
        return [blob for value in body for blob in blobs(value, key)]
    opaque = ("signature", "encrypted_content", "thoughtSignature", "thought_signature", "data", "reasoning_content")
    return [body] if key in opaque and isinstance(body, str) and body else []


def given_to(caller: str, vendor: str, turn: Turn, *, streamed: bool) -> dict[str, Any]:
    """Returns the whole answer that a client has, as the SDK puts it together if it was streamed."""
    if not streamed:
        return encode_answer(caller, answer_of(vendor, turn), PROMPT)
    events, _ = decode_stream(vendor, stream(vendor, turn))
    return collected(caller, encode_stream(caller, events, PROMPT))


THOUGHTFUL = turn_of(("",), thinking="Let me think about it.", reasoning=3)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(("vendor", "caller"), PAIRS)
def test_reasoning_comes_back_to_its_vendor_unchanged(vendor: str, caller: str, *, streamed: bool) -> None:
    given = given_to(caller, vendor, THOUGHTFUL, streamed=streamed)
    body = encode(vendor, decode(caller, next_turn(caller, given, ["fog"])), model="plain-think")
    judge(vendor, body, model="plain-think")  # it checks the signatures
    assert set(blobs(body)) == set(blobs(whole(vendor, THOUGHTFUL))) != set()


@pytest.mark.parametrize(("vendor", "caller"), PAIRS)
def test_reasoning_goes_to_no_other_vendor(vendor: str, caller: str) -> None:
    given = given_to(caller, vendor, THOUGHTFUL, streamed=False)
    asked = decode(caller, next_turn(caller, given, ["fog"]))
    secrets = set(blobs(whole(vendor, THOUGHTFUL))) | set(blobs(given))
    for other in NAMES:
        body = encode(other, asked, origin="another")
        judge(other, body)
        assert not secrets.intersection(blobs(body))


@pytest.mark.parametrize(("vendor", "caller"), PAIRS)
def test_a_turn_of_another_vendors_does_not_spoil_a_call_that_passes(vendor: str, caller: str) -> None:
    given = given_to(caller, vendor, THOUGHTFUL, streamed=False)
    request = parse(caller, next_turn(caller, given, ["fog"]))
    body = DIALECTS[caller].pass_request(request, target(caller, origin="another"))
    judge(caller, json.loads(body))
    assert not set(blobs(given)).intersection(blobs(json.loads(body)))

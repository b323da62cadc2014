"""Odd input in every dialect: one value of another type is an error of the caller's or of the vendor's, and no bug."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from app.domain.content import Event, Prompt
from app.errors import InvalidRequest
from app.providers.dialects import DIALECTS
from app.providers.dialects.dialect import StreamReported
from tests.support.dialects.answers import TURNS, stream, whole
from tests.support.dialects.calls import NAMES, ORIGIN, decode, encode, encode_answer, framing, parse, split
from tests.support.dialects.prompts import FEATURES

PROMPT = Prompt(model="m", messages=())
MISSING = object()
ODD: list[Any] = [
    MISSING,
    None,
    True,
    -1,
    2**40,
    0.5,
    "",
    "x",
    "\x00",
    [],
    [None],
    [[]],
    [{}],
    {},
    {"type": None},
    {"type": "x"},
    ["x"],
]


def places(value: Any) -> list[tuple[Any, Any]]:
    """Returns each object or array in `value` with each of its keys."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [pair for key, inner in pairs for pair in [(value, key), *places(inner)]]


def spoilt(value: Any, step: int) -> Iterator[Any]:
    """Yields `value` with one value in it replaced or left out: each once, by an odd value that `step` chooses."""
    for n in range(len(places(value))):
        changed = copy.deepcopy(value)
        holder, key = places(changed)[n]
        odd = ODD[(n * 5 + step) % len(ODD)]
        if odd is MISSING:
            del holder[key]
        else:
            holder[key] = copy.deepcopy(odd)
        yield changed


@pytest.mark.parametrize("caller", NAMES)
@pytest.mark.parametrize("step", range(2))
def test_an_odd_request_is_understood_or_refused(caller: str, step: int) -> None:
    for number, feature in enumerate(FEATURES.values()):
        for body in spoilt(feature.written.get(caller), number + step * 3):
            try:
                asked = decode(caller, body)
            except InvalidRequest:
                continue
            for vendor in NAMES:
                try:
                    encode(vendor, asked)
                except InvalidRequest:
                    pass


@pytest.mark.parametrize("dialect", NAMES)
def test_an_odd_request_of_who_has_a_budget_is_bounded_or_refused(dialect: str) -> None:
    for number, feature in enumerate(FEATURES.values()):
        for body in spoilt(feature.written.get(dialect), number):
            try:
                assert parse(dialect, body).canonical().prompt_tokens_upper_bound() >= 0
            except InvalidRequest:
                pass


@pytest.mark.parametrize("vendor", NAMES)
@pytest.mark.parametrize("step", range(4))
def test_an_odd_answer_is_translated_or_no_answer(vendor: str, step: int) -> None:
    codec = DIALECTS[vendor]
    for number, said in enumerate(TURNS.values()):
        for changed in spoilt(whole(vendor, said.turn), number + step * 3):
            body = msgspec.json.encode(changed)
            try:
                codec.read_answer(body)
            except ValueError:
                pass
            try:
                answer = codec.decode_answer(body, ORIGIN)
            except (ValueError, StreamReported):
                continue
            for caller in NAMES:
                encode_answer(caller, answer, PROMPT)


@pytest.mark.parametrize("vendor", NAMES)
@pytest.mark.parametrize("step", range(2))
def test_an_odd_stream_is_translated_or_fails(vendor: str, step: int) -> None:
    for number, said in enumerate(TURNS.values()):
        events = list(split(stream(vendor, said.turn)))
        for n, (name, payload) in enumerate(events):
            if payload == b"[DONE]":
                continue
            for changed in spoilt(msgspec.json.decode(payload), n + number + step * 3):
                spoilt_events = [*events[:n], (name, msgspec.json.encode(changed)), *events[n + 1 :]]
                _watch(vendor, spoilt_events)
                _translate(vendor, spoilt_events)


def _watch(vendor: str, events: list[tuple[str, bytes]]) -> None:
    watch = DIALECTS[vendor].watch(parse(vendor, FEATURES["plain"].written[vendor], stream=True))
    try:
        for name, payload in events:
            watch.see(name, payload)
    except (ValueError, StreamReported):
        pass


def _translate(vendor: str, events: list[tuple[str, bytes]]) -> None:
    decoder = DIALECTS[vendor].stream_decoder(ORIGIN)
    encoders = [DIALECTS[caller].stream_encoder(framing(PROMPT)) for caller in NAMES]
    found: list[Event] = []
    try:
        for name, payload in events:
            found += decoder.decode(name, payload)
    except (ValueError, StreamReported):
        pass
    for event in found:
        for encoder in encoders:
            encoder.encode(event)

"""Answers through every pair of dialects, whole and streamed: the callers' own SDKs hear what the vendor said."""

from __future__ import annotations

import json

import msgspec
import pytest

from app.domain.content import Prompt
from app.providers.dialects import DIALECTS
from tests.support.dialects.answers import ENDS, TURNS, Said, ending, stream, whole
from tests.support.dialects.calls import NAMES, ORIGIN, decode_stream, encode_answer, encode_stream
from tests.support.dialects.sdks import Heard, hear

PROMPT = Prompt(model="m", messages=())
PAIRS = [
    pytest.param(name, vendor, caller, id=f"{name}, {vendor} to {caller}")
    for name in TURNS
    for vendor in NAMES
    for caller in NAMES
]


def expected(said: Said, caller: str) -> Heard:
    turn = said.turn
    calls = tuple((call.tool.name, json.dumps(call.arguments, sort_keys=True)) for call in turn.calls)
    return Heard(
        turn.text, turn.thinking, "", calls, (), said.stops[caller], turn.prompt_tokens, turn.completion_tokens
    )


def hears(caller: str, answer: Heard, said: Said) -> None:
    assert len(set(answer.ids)) == len(said.turn.calls)
    assert answer._replace(ids=()) == expected(said, caller)


@pytest.mark.parametrize(("name", "vendor", "caller"), PAIRS)
def test_a_whole_answer_is_heard(name: str, vendor: str, caller: str) -> None:
    said = TURNS[name]
    answer = DIALECTS[vendor].decode_answer(msgspec.json.encode(whole(vendor, said.turn)), ORIGIN)
    hears(caller, hear(caller, encode_answer(caller, answer, PROMPT)), said)


@pytest.mark.parametrize(("name", "vendor", "caller"), PAIRS)
def test_a_stream_is_heard(name: str, vendor: str, caller: str) -> None:
    said = TURNS[name]
    events, complete = decode_stream(vendor, stream(vendor, said.turn))
    assert complete
    hears(caller, hear(caller, encode_stream(caller, events, PROMPT)), said)


@pytest.mark.parametrize(("kind", "vendor"), ENDS)
@pytest.mark.parametrize("caller", NAMES)
@pytest.mark.parametrize("streamed", [False, True])
def test_an_end_is_named_in_the_callers_words(kind: str, vendor: str, caller: str, *, streamed: bool) -> None:
    turn = ending(kind)
    if streamed:
        events, _ = decode_stream(vendor, stream(vendor, turn))
        heard = hear(caller, encode_stream(caller, events, PROMPT))
    else:
        answer = DIALECTS[vendor].decode_answer(msgspec.json.encode(whole(vendor, turn)), ORIGIN)
        heard = hear(caller, encode_answer(caller, answer, PROMPT))
    assert heard.stop == ENDS[kind, vendor][caller]
    assert (heard.text or heard.refusal) == turn.text

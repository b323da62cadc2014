"""Streams through every pair of dialects: in the caller's grammar as far as they come, without an invented end."""

from __future__ import annotations

from itertools import pairwise

import pytest

from app.domain.content import BlockEnded, BlockStarted, Cited, Delta, Event, Prompt, Signed, Started, Stopped
from app.providers.dialects import DIALECTS
from app.providers.stream_events import TranslatedEvents
from tests.support.dialects.answers import ENDS, TURNS, ending, stream
from tests.support.dialects.calls import NAMES, ORIGIN, decode_stream, encode_stream, framing
from tests.support.dialects.grammar import check_stream

PROMPT = Prompt(model="m", messages=())
PAIRS = [pytest.param(vendor, caller, id=f"{vendor} to {caller}") for vendor in NAMES for caller in NAMES]
EVERYTHING = "thinking, text and tool calls"


def check_events(events: list[Event]) -> None:
    """Holds events to the grammar of `content`: one block after the other, and the stop at the end."""
    assert isinstance(events[0], Started)
    open_index, last = None, -1
    for before, event in pairwise(events):
        assert not isinstance(before, Stopped)
        match event:
            case BlockStarted():
                assert open_index is None
                assert event.index == last + 1
                open_index = last = event.index
            case BlockEnded():
                assert event.index == open_index
                open_index = None
            case Delta() | Signed() | Cited():
                assert event.index == open_index
            case Stopped():
                assert open_index is None
            case Started():
                pytest.fail("A stream starts once.")


@pytest.mark.parametrize("vendor", NAMES)
@pytest.mark.parametrize("name", TURNS)
def test_a_vendors_stream_becomes_well_formed_events(name: str, vendor: str) -> None:
    events, complete = decode_stream(vendor, stream(vendor, TURNS[name].turn))
    assert complete
    check_events(events)
    assert isinstance(events[-1], Stopped)


@pytest.mark.parametrize(("vendor", "caller"), PAIRS)
@pytest.mark.parametrize("name", TURNS)
def test_a_translated_stream_is_in_the_callers_grammar(name: str, vendor: str, caller: str) -> None:
    events, _ = decode_stream(vendor, stream(vendor, TURNS[name].turn))
    for include_usage in (True, False):
        check_stream(caller, encode_stream(caller, events, PROMPT, include_usage=include_usage), whole=True)


@pytest.mark.parametrize(("kind", "vendor"), ENDS)
@pytest.mark.parametrize("caller", NAMES)
def test_every_end_is_in_the_callers_grammar(kind: str, vendor: str, caller: str) -> None:
    events, _ = decode_stream(vendor, stream(vendor, ending(kind)))
    check_stream(caller, encode_stream(caller, events, PROMPT), whole=True)


@pytest.mark.parametrize(("vendor", "caller"), PAIRS)
def test_a_stream_cut_at_any_byte_is_the_beginning_of_the_whole_one(vendor: str, caller: str) -> None:
    whole = stream(vendor, TURNS[EVERYTHING].turn)
    seen = set()
    for size in range(len(whole)):
        events = whole[:size].split(b"\n\n")[:-1]
        if len(events) in seen:
            continue
        seen.add(len(events))
        translated = TranslatedEvents(
            DIALECTS[caller], DIALECTS[vendor].stream_decoder(ORIGIN), DIALECTS[caller].stream_encoder(framing(PROMPT))
        )
        sent = translated.take(whole[:size], events) + translated.end()
        assert translated.failure is None
        if translated.complete:
            assert events[-1:] == [event for event in whole.split(b"\n\n") if event][-1:]
            sent += translated.ending
        check_stream(caller, sent, whole=translated.complete)

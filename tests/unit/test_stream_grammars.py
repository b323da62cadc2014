"""The grammars that streams are held to: each refuses a stream with one thing wrong."""

from __future__ import annotations

import pytest

from app.domain.content import BlockEnded, BlockStarted, Delta, Event, Prompt, Started, Stopped, Text, ToolCall
from app.domain.usage import Usage
from tests.support.dialects.calls import NAMES, encode_stream
from tests.support.dialects.grammar import check_stream

EVENTS: list[Event] = [
    Started(id="x", model="v", usage=Usage(1, 1)),
    BlockStarted(index=0, block=Text(text="")),
    Delta(index=0, text="hello"),
    BlockEnded(index=0),
    BlockStarted(index=1, block=ToolCall(id="a", name="f")),
    Delta(index=1, text='{"x":1}'),
    BlockEnded(index=1),
    Stopped(stop="tool_calls", usage=Usage(1, 2)),
]


def events_of(dialect: str) -> list[bytes]:
    stream = encode_stream(dialect, EVENTS, Prompt(model="m", messages=()))
    return [event + b"\n\n" for event in stream.split(b"\n\n")[:-1]]


@pytest.mark.parametrize("dialect", NAMES)
def test_a_whole_stream_is_accepted_as_whole_and_as_nothing_else(dialect: str) -> None:
    stream = b"".join(events_of(dialect))
    check_stream(dialect, stream, whole=True)
    with pytest.raises(AssertionError):
        check_stream(dialect, stream, whole=False)


@pytest.mark.parametrize("dialect", ["messages", "responses"])
def test_no_event_may_be_missing_or_come_twice(dialect: str) -> None:
    events = events_of(dialect)
    for i, event in enumerate(events):
        if b"event: content_block_delta" in event:
            continue  # messages do not say the whole text again
        for others in ([*events[:i], *events[i + 1 :]], [*events[: i + 1], *events[i:]]):
            with pytest.raises((AssertionError, KeyError)):
                check_stream(dialect, b"".join(others), whole=True)


@pytest.mark.parametrize(
    ("dialect", "right", "wrong"),
    [
        ("chat", b'"index":0', b'"index":1'),
        ("chat", b'"role":"assistant"', b'"role":null'),
        ("chat", b'"finish_reason":"tool_calls"', b'"finish_reason":"tool_use"'),
        ("chat", b'"choices":[]', b'"choices":null'),
        ("chat", b'"usage":null', b'"usage":{}'),
        ("chat", b'"type":"function"', b'"type":null'),
        ("messages", b"event: message_stop\n", b""),
        ("messages", b'"stop_reason":"tool_use"', b'"stop_reason":"tool_calls"'),
        ("messages", b'"input":{}', b'"input":""'),
        ("responses", b'"sequence_number":3', b'"sequence_number":4'),
        ("responses", b'"delta":"hello"', b'"delta":"hullo"'),
        ("gemini", b'"finishReason"', b'"finish_reason"'),
        ("gemini", b'"role":"model"', b'"role":"assistant"'),
    ],
)
def test_a_wrong_word_is_found(dialect: str, right: bytes, wrong: bytes) -> None:
    stream = b"".join(events_of(dialect))
    assert right in stream
    with pytest.raises((AssertionError, KeyError, TypeError)):
        check_stream(dialect, stream.replace(right, wrong, 1), whole=True)

"""Identity: what a dialect's encoder writes, its decoder reads as the same, and nothing is lost in either."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings

from app.domain.content import Answer, Prompt
from app.providers.dialects import DIALECTS
from tests.support.dialects.calls import (
    NAMES,
    ORIGIN,
    decode,
    decode_stream,
    encode,
    encode_answer,
    encode_stream,
    judge,
)
from tests.support.dialects.grammar import check_stream
from tests.support.dialects.meaning import answered, assembled, turns
from tests.support.dialects.strategies import answers, events_of, prompts

PROMPT = Prompt(model="m", messages=())
pytestmark = pytest.mark.slow
examples = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("dialect", NAMES)
@examples
@given(prompt=prompts())
def test_a_prompt_that_a_dialect_has_said_is_read_as_the_same(dialect: str, prompt: Prompt) -> None:
    body = encode(dialect, prompt)
    judge(dialect, body)
    said = decode(dialect, body)
    assert turns(said) == turns(prompt)
    assert [(tool.name, tool.description, tool.schema) for tool in said.tools] == [
        (tool.name, tool.description, tool.schema) for tool in prompt.tools
    ]
    assert (said.hints, said.foreign) == ({}, {})
    assert decode(dialect, encode(dialect, said)) == said


@pytest.mark.parametrize("dialect", NAMES)
@examples
@given(answer=answers())
def test_an_answer_is_read_as_it_was_written_whole_or_streamed(dialect: str, answer: Answer) -> None:
    codec = DIALECTS[dialect]
    whole = codec.decode_answer(msgspec.json.encode(encode_answer(dialect, answer, PROMPT)), ORIGIN)
    assert answered(whole) == answered(answer)
    assert (_end(whole), whole.usage) == (_end(answer), answer.usage)
    stream = encode_stream(dialect, events_of(answer), PROMPT)
    check_stream(dialect, stream, whole=True)
    events, complete = decode_stream(dialect, stream)
    assert complete
    again = codec.decode_answer(msgspec.json.encode(encode_answer(dialect, whole, PROMPT)), ORIGIN)
    assert answered(again) == answered(whole)
    assert assembled(events) == answered(answer)


def _end(answer: Answer) -> str:
    """Returns the reason of an answer's end. Messages have one word for what was refused and what was filtered."""
    return "content_filter" if answer.stop == "refusal" else answer.stop

"""Grammars of the dialects' streams: a state machine each, that holds every event to the ones before it."""

from __future__ import annotations

from typing import Any

from tests.support.dialects.calls import split
from tests.support.dialects.grammar.chat import ChatGrammar
from tests.support.dialects.grammar.gemini import GeminiGrammar
from tests.support.dialects.grammar.messages import MessagesGrammar
from tests.support.dialects.grammar.responses import ResponsesGrammar

GRAMMARS: dict[str, Any] = {
    "chat": ChatGrammar,
    "messages": MessagesGrammar,
    "responses": ResponsesGrammar,
    "gemini": GeminiGrammar,
}


def check_stream(dialect: str, stream: bytes, *, whole: bool) -> None:
    """Holds a stream to its dialect's grammar. One that is not whole is the beginning of a stream, without its end."""
    assert stream == b"" or stream.endswith(b"\n\n")
    assert b"\r" not in stream
    for event in stream.split(b"\n\n")[:-1]:
        lines = event.split(b"\n")
        named = dialect in ("messages", "responses")
        assert len(lines) == 1 + named, lines
        assert lines[-1].startswith(b"data: "), lines
        assert not named or lines[0].startswith(b"event: "), lines
    grammar = GRAMMARS[dialect]()
    for name, payload in split(stream):
        assert not grammar.ended, payload
        grammar.feed(name, payload)
    assert grammar.ended == whole

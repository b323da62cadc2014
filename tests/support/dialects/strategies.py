"""Prompts and answers for hypothesis: whatever a conversation with tools may hold."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from app.domain.content import (
    Answer,
    Block,
    BlockEnded,
    BlockStarted,
    Delta,
    Event,
    Image,
    Message,
    Prompt,
    Reasoning,
    Source,
    Started,
    Stopped,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from app.domain.usage import Usage

NAMES = ("weather", "now", "read_file")
TOOLS = tuple(
    Tool(name=name, description=f"Does {name}.", schema={"type": "object", "properties": {"x": {"type": "string"}}})
    for name in NAMES
)
_texts = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=20)
_said = _texts.filter(str.strip)
_values = st.one_of(st.none(), st.booleans(), st.integers(-(2**53), 2**53), _texts)
_arguments = st.dictionaries(_texts, st.one_of(_values, st.lists(_values, max_size=2)), max_size=3)
_ids = st.one_of(st.sampled_from(["", "functions.Bash:0", "call_1", "x" * 200, "🔧"]), st.text(max_size=12))
_pictures = st.sampled_from(
    [
        Image(source=Source(media_type="image/png", data="iVBORw0KGgo=")),
        Image(source=Source(media_type="image/gif", data="R0lG")),
    ]
)


@st.composite
def _calls(draw: st.DrawFn, most: int = 3) -> list[ToolCall]:
    return [
        ToolCall(
            id=draw(_ids),
            name=draw(st.sampled_from(NAMES)),
            arguments=json.dumps(arguments) if (arguments := draw(_arguments)) else "",
        )
        for _ in range(draw(st.integers(0, most)))
    ]


@st.composite
def prompts(draw: st.DrawFn) -> Prompt:
    """Returns conversations in which every call has its result, and the user has the last word."""
    messages: list[Message] = []
    if draw(st.booleans()):
        messages.append(Message(role="system", blocks=(Text(text=draw(_said)),)))
    results: list[Block] = []
    for _ in range(draw(st.integers(0, 3))):
        messages.append(Message(role="user", blocks=(*results, *draw(_user()))))
        calls = draw(_calls())
        spoken: list[Block] = [Text(text=draw(_said))] if not calls or draw(st.booleans()) else []
        messages.append(Message(role="assistant", blocks=(*spoken, *calls)))
        results = [ToolResult(call_id=call.id, name=call.name, content=(Text(text=draw(_said)),)) for call in calls]
    messages.append(Message(role="user", blocks=(*results, *draw(_user()))))
    settings: dict[str, Any] = {}
    if draw(st.booleans()):
        settings["tool_choice"] = draw(
            st.sampled_from(
                [
                    ToolChoice(mode="auto"),
                    ToolChoice(mode="none"),
                    ToolChoice(mode="required"),
                    ToolChoice(mode="required", names=("now",)),
                ]
            )
        )
    if draw(st.booleans()):
        settings["temperature"] = draw(st.sampled_from([0.0, 0.25, 0.5]))
    if draw(st.booleans()):
        settings["reasoning"] = Reasoning(effort=draw(st.sampled_from(["low", "medium", "high"])))
        settings.pop("temperature", None)
        settings.pop("tool_choice", None)
    return Prompt(
        model="plain",
        messages=tuple(messages),
        tools=TOOLS,
        max_output_tokens=draw(st.integers(16, 100_000)),
        **settings,
    )


def _user() -> st.SearchStrategy[list[Block]]:
    return st.lists(st.one_of(_said.map(lambda text: Text(text=text)), _pictures), min_size=1, max_size=3)


@st.composite
def answers(draw: st.DrawFn) -> Answer:
    """Returns answers of text and tool calls."""
    blocks: list[Block] = [Text(text=draw(_said))] if draw(st.booleans()) else []
    calls = draw(_calls())
    usage = Usage(draw(st.integers(0, 10**6)), draw(st.integers(0, 10**6)))
    stop: Any = "tool_calls" if calls else draw(st.sampled_from(["end", "length", "content_filter"]))
    return Answer(id="x", model="v", blocks=(*blocks, *calls), stop=stop, usage=usage)


def events_of(answer: Answer) -> list[Event]:
    """Returns the answer as the events of a stream, its texts in two pieces."""
    events: list[Event] = [Started(id=answer.id, model=answer.model)]
    for index, block in enumerate(answer.blocks):
        if isinstance(block, ToolCall):
            events.append(BlockStarted(index=index, block=ToolCall(id=block.id, name=block.name)))
            text = block.arguments
        else:
            assert isinstance(block, Text)
            events.append(BlockStarted(index=index, block=Text(text="")))
            text = block.text
        half = len(text) // 2
        events += [Delta(index=index, text=piece) for piece in (text[:half], text[half:]) if piece]
        events.append(BlockEnded(index=index))
    events.append(Stopped(stop=answer.stop, usage=answer.usage))
    return events

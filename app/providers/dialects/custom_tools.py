"""Custom tools: tools that read free text, in dialects whose tools all take JSON objects.

There such a tool takes one text under `input`. What comes back for it is turned into the free text again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec.structs import replace

from app.domain.content import Answer, Block, BlockEnded, BlockStarted, Delta, Event, Prompt, Tool, ToolCall

_FIELD = "input"
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


def schema() -> dict[str, Any]:
    """Returns the JSON Schema of a custom tool's arguments."""
    return {
        "type": "object",
        "properties": {_FIELD: {"type": "string", "description": "The tool's whole input, as free text."}},
        "required": [_FIELD],
        "additionalProperties": False,
    }


def description(tool: Tool) -> str:
    """Returns the tool's description, and its grammar: no other dialect has a field for one."""
    if not tool.grammar:
        return tool.description
    return f"{tool.description}\n\nThe input must fit this grammar: {_encode(tool.grammar).decode()}".strip()


def wrap(text: str) -> dict[str, Any]:
    """Returns the arguments that stand for the free text."""
    return {_FIELD: text}


def unwrap(arguments: str) -> str:
    """Returns the free text in a call's arguments; the arguments themselves where there is none in them."""
    try:
        found = _decode(arguments)
    except (ValueError, RecursionError):
        return arguments
    text = found.get(_FIELD) if isinstance(found, dict) else None
    return text if isinstance(text, str) else arguments


def unwrap_answer(answer: Answer, prompt: Prompt) -> Answer:
    """Returns the answer with the calls of the prompt's custom tools as such."""
    names = _custom_names(prompt)
    if not names:
        return answer

    def unwrapped(block: Block) -> Block:
        if isinstance(block, ToolCall) and block.name in names and not block.custom:
            return replace(block, custom=True, arguments=unwrap(block.arguments))
        return block

    return replace(answer, blocks=tuple(map(unwrapped, answer.blocks)))


class UnwrapEvents:
    """Turns the calls of the prompt's custom tools in a stream into such. Their text comes in one piece, at the end."""

    def __init__(self, prompt: Prompt) -> None:
        self._names = _custom_names(prompt)
        self._open: int | None = None
        self._arguments: list[str] = []

    @property
    def needed(self) -> bool:
        """Says that the prompt has custom tools: without them, events pass as they are."""
        return bool(self._names)

    def feed(self, event: Event) -> Iterable[Event]:
        """Returns the events to write for `event`."""
        if isinstance(event, BlockStarted):
            block = event.block
            if isinstance(block, ToolCall) and block.name in self._names and not block.custom:
                self._open, self._arguments = event.index, [block.arguments]
                return (replace(event, block=replace(block, custom=True, arguments="")),)
        elif self._open is not None and isinstance(event, Delta) and event.index == self._open:
            self._arguments.append(event.text)
            return ()
        elif self._open is not None and isinstance(event, BlockEnded) and event.index == self._open:
            self._open = None
            text = unwrap("".join(self._arguments))
            return (Delta(index=event.index, text=text), event) if text else (event,)
        return (event,)


def _custom_names(prompt: Prompt) -> frozenset[str]:
    return frozenset(tool.name for tool in prompt.tools if tool.custom)

"""Meaning of a prompt or an answer: what two dialects' ways to say the same have in common."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from msgspec.structs import replace

from app.domain.content import (
    Answer,
    Audio,
    Block,
    BlockStarted,
    Delta,
    Document,
    Event,
    Image,
    Prompt,
    Refusal,
    ServerTool,
    Signed,
    Source,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)


class _Reader:
    """Reads blocks; calls and results are known by the number of the call, not by its id."""

    def __init__(self) -> None:
        self._calls: dict[str, list[int]] = {}
        self._number = 0

    def read(self, block: Block) -> tuple[Any, ...]:
        match block:
            case Text():
                return ("text", block.text)
            case Image():
                return ("image", _source(block.source))
            case Document():
                return ("document", _source(block.source))
            case Audio():
                return ("audio", _source(block.source))
            case ToolCall():
                self._calls.setdefault(block.id, []).append(self._number)
                self._number += 1
                return ("call", self._number - 1, block.name, _arguments(block))
            case ToolResult():
                numbers = self._calls.get(block.call_id)
                number = numbers.pop(0) if numbers else None
                return ("result", number, tuple(self.read(inner) for inner in block.content))
            case Thinking():
                return ("thinking", block.text, block.signature)
            case Refusal():
                return ("refusal", block.text)
            case ServerTool():
                return ("server", json.dumps(block.value, sort_keys=True))


def _source(source: Source) -> str:
    return source.data or source.url or source.text or f"file {source.file_id}"


def _arguments(call: ToolCall) -> str:
    if call.custom:
        return call.arguments
    arguments = json.loads(call.arguments or "{}")
    # A custom tool is a function of one text where there are none.
    return str(arguments["input"]) if list(arguments) == ["input"] else json.dumps(arguments, sort_keys=True)


def turns(prompt: Prompt) -> list[tuple[str, list[tuple[Any, ...]]]]:
    """Returns the turns: neighbours of one role are one, `developer` is `system`, texts behind each other are one."""
    reader, found = _Reader(), list[tuple[str, list[tuple[Any, ...]]]]()
    for message in prompt.messages:
        role = "system" if message.role == "developer" else message.role
        if not found or found[-1][0] != role:
            found.append((role, []))
        found[-1][1].extend(map(reader.read, message.blocks))
    return [(role, joined(blocks)) for role, blocks in found if blocks]


def joined(blocks: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Returns the blocks with texts behind each other as one, and without empty ones."""
    found: list[tuple[Any, ...]] = []
    for block in blocks:
        if found and block[0] == found[-1][0] == "text":
            found[-1] = ("text", found[-1][1] + block[1])
        elif block != ("text", ""):
            found.append(block)
    return found


def answered(answer: Answer) -> list[tuple[Any, ...]]:
    """Returns the blocks of an answer."""
    reader = _Reader()
    return joined(map(reader.read, answer.blocks))


def assembled(events: Iterable[Event]) -> list[tuple[Any, ...]]:
    """Returns the blocks of a streamed answer."""
    blocks: list[Any] = []
    for event in events:
        match event:
            case BlockStarted():
                blocks.append(event.block)
            case Delta():
                field = "arguments" if isinstance(blocks[-1], ToolCall) else "text"
                blocks[-1] = replace(blocks[-1], **{field: getattr(blocks[-1], field) + event.text})
            case Signed():
                blocks[-1] = replace(blocks[-1], signature=event.signature)
    reader = _Reader()
    return joined(map(reader.read, blocks))

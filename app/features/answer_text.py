"""Text of an answer: extracted from a completion, or from the chunks that stream one.

Vendors send odd things, which the pipeline lets pass since they are the client's to understand. Here they become text
where they can: half of a surrogate pair is replaced, the texts of a list of parts are joined, anything else is "".
"""

from __future__ import annotations

import json
from typing import Any

import msgspec


class _Message(msgspec.Struct, frozen=True):
    """A message, or the delta of one."""

    content: object = None
    refusal: object = None


class _Choice(msgspec.Struct, frozen=True):
    message: _Message | None = None
    delta: _Message | None = None


class _Answer(msgspec.Struct, frozen=True):
    """A completion, or a chunk of one."""

    choices: list[_Choice] | None = None
    usage: object = None


_decode = msgspec.json.Decoder(_Answer).decode


def text_and_usage(completion: bytes) -> tuple[str, dict[str, Any] | None]:
    """Returns a completion's text, and its usage as the provider wrote it, if it did."""
    answer = _decoded(completion)
    text = _text(answer.choices[0].message) if answer.choices else ""
    return text, answer.usage if isinstance(answer.usage, dict) else None


def streamed_text(block: bytes) -> str:
    """Returns the text in a block of whole events."""
    if not block:
        return ""
    chunks = [_decoded(event[6:]) for event in block.split(b"\n\n") if event.startswith(b"data: ")]
    return "".join([_text(choice.delta) for chunk in chunks for choice in chunk.choices or ()])


def _text(message: _Message | None) -> str:
    if message is None:
        return ""
    content = message.content or message.refusal
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        return "".join([part for part in parts if isinstance(part, str)])
    return content if isinstance(content, str) else ""


def _decoded(data: bytes) -> _Answer:
    try:
        return _decode(data)
    except (ValueError, RecursionError):
        pass
    try:
        return _decode(json.dumps(json.loads(data), ensure_ascii=False).encode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return _Answer()

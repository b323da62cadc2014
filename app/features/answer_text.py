"""What an answer says to a person: the words of a completion, or of the chunks that stream one.

Vendors send odd things, which the pipeline lets pass since they are the client's to understand. Here they become words
where they can: half of a surrogate pair is replaced, of a list of parts the texts are taken, anything else is silence.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec


class _Text(msgspec.Struct):
    content: object = None
    refusal: object = None


class _Choice(msgspec.Struct):
    message: _Text | None = None
    delta: _Text | None = None


class _Spoken(msgspec.Struct):
    """A completion, or a chunk of one."""

    choices: list[_Choice] | None = None
    usage: object = None


_decode = msgspec.json.Decoder(_Spoken).decode


def text_and_usage(completion: bytes) -> tuple[str, dict[str, Any] | None]:
    """A completion's words, and its usage as the provider wrote it, if it did."""
    spoken = _decoded(completion)
    words = _words(spoken.choices[0].message) if spoken.choices else ""
    return words, spoken.usage if isinstance(spoken.usage, dict) else None


def streamed_text(block: bytes) -> str:
    """The words in a block of whole events."""
    if not block:
        return ""
    chunks = [_decoded(event[6:]) for event in block.split(b"\n\n") if event.startswith(b"data: ")]
    return "".join([_words(choice.delta) for chunk in chunks for choice in chunk.choices or ()])


def _words(text: _Text | None) -> str:
    if text is None:
        return ""
    said = text.content or text.refusal
    if isinstance(said, list):
        parts = [part.get("text") for part in said if isinstance(part, dict)]
        return "".join([part for part in parts if isinstance(part, str)])
    return said if isinstance(said, str) else ""


def _decoded(data: bytes) -> _Spoken:
    try:
        return _decode(data)
    except (ValueError, RecursionError):
        pass
    try:
        return _decode(json.dumps(json.loads(data), ensure_ascii=False).encode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return _Spoken()

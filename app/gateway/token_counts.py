"""Token counts of prompts, made offline: one that no vendor exceeds, and one that every vendor exceeds.

Only OpenAI publishes its vocabularies. Other vendors' tokens are counted in OpenAI's and multiplied by a factor of the
model's family, measured on prose, source code, JSON and other scripts (docs/operations.md has the figures): `most` is
for callers who ask how long a prompt is, and is high rather than low, `least` for refusing what cannot fit.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Iterator
from math import ceil
from typing import Any, NamedTuple

import msgspec

from app.domain.content import (
    Audio,
    Block,
    Document,
    Image,
    Opaque,
    Prompt,
    Refusal,
    ServerTool,
    Source,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)
from app.domain.generation import IMAGE_CEILING_TOKENS
from app.gateway.tokenizer import Vocabulary, count_tokens, slices

_encode = msgspec.json.Encoder().encode


class Family(NamedTuple):
    """Models that count alike. `pattern` is looked for in the vendor's name of the model, in lower case.

    `most` and `least` are how many of the family's tokens a token of the `vocabulary` is, at the most and the least.
    `own_vocabulary`: they are the same tokens, so that digits, spaces and other scripts need no margin of their own.
    """

    pattern: str
    most: float
    least: float
    image: int  # tokens of the largest picture
    message: int = 8  # around each message
    tools: int = 64  # around the list of tools
    vocabulary: Vocabulary = "o200k_base"
    own_vocabulary: bool = False


# The first that matches. Pictures: OpenAI scales to 8 tiles of 170 tokens or 1536 patches times 2.46 (gpt-4o-mini
# counts each tile at 5667); Anthropic to 1568 pixels and later 2576, Gemini to its highest media resolution, Qwen's
# models to 16,384 patches. Claude's tokens became shorter with version 4.7, and so did its list of tools longer.
FAMILIES = (
    Family(r"gpt-4o-mini", 1.02, 0.98, IMAGE_CEILING_TOKENS, own_vocabulary=True),
    Family(
        r"gpt-3\.5|gpt-35|gpt-4(?![.o])|embedding-(3|ada)",
        1.02,
        0.98,
        4_096,
        vocabulary="cl100k_base",
        own_vocabulary=True,
    ),
    Family(r"gpt-(4|5|oss)|chatgpt|\bo[134]\b", 1.02, 0.98, 4_096, own_vocabulary=True),
    Family(r"gpt-|\bo\d", 1.3, 0.6, 4_096),
    Family(r"claude-(v?[0-3]|instant|((opus|sonnet|haiku)-)?4(?![.-]?[7-9](?!\d)))", 1.5, 0.9, 1_700, tools=800),
    Family(r"claude", 2.1, 0.9, 5_000, tools=1_000),
    Family(r"gemini|gemma", 1.3, 0.6, 4_500),
    Family(r"", 1.7, 0.6, 16_384, tools=512),
)
# A page of a PDF is mostly more than two kilobytes, and its text and picture together at most 8,000 tokens.
_DOCUMENT_TOKENS = 8_000
_SOUND_BYTES_PER_TOKEN = 32  # 8 kbit/s, which is little for speech, at Gemini's 32 tokens a second
_ORIGINAL_IMAGE_TOKENS = 16_384  # of OpenAI's detail "original": 10,000 patches
_TOOL_TOKENS = 16  # around each tool and each call of one
_DIGITS, _CAPITALS = string.digits.encode(), string.ascii_uppercase.encode()
_LONG_SPACE, _EMPTY_LINE = b" " * 8, b"\n\n"
_RUN = re.compile(r"(\w)\1{15,}")


def family_of(model: str) -> Family:
    """Returns the family of a model, by the vendor's name for it."""
    name = model.lower()
    return next(family for family in FAMILIES if re.search(family.pattern, name))


def most_tokens(prompt: Prompt, model: str) -> int:
    """Returns a count that the vendor's own does not exceed, for content that the gateway has: not what a URL or a file
    id stands for, which counts as one picture or one page."""
    family = family_of(model)
    blocks = list(_blocks(prompt))
    parts = len(prompt.messages) + sum(isinstance(block, ToolCall | ToolResult) for block in blocks)
    total = _most_of_texts(_all_texts(prompt), family) + family.message * (parts + 1)
    if prompt.tools:
        total += family.tools + sum(_TOOL_TOKENS + 2 * _properties(tool.schema) for tool in prompt.tools)
    return total + sum(_most_of_media(block, family) for block in blocks)


def least_tokens(prompt: Prompt, models: Iterable[str]) -> int:
    """Returns a count that no vendor's own, for any of the models, is below.

    It is of the text alone: vendors may leave reasoning out, and each writes tools in its own way.
    """
    factors: dict[Vocabulary, float] = {}
    for family in map(family_of, models):
        factors[family.vocabulary] = min(family.least, factors.get(family.vocabulary, 1.0))
    texts = list(_plain_texts(prompt))
    return min(
        int(sum(count_tokens(piece, vocabulary) for piece in slices(texts)) * factor)
        for vocabulary, factor in factors.items()
    )


def _most_of_texts(texts: Iterable[str], family: Family) -> int:
    total = 0.0
    for piece in slices(texts):
        data = piece.encode("utf-8", "surrogatepass")
        counted = count_tokens(piece, family.vocabulary) * family.most
        if not family.own_vocabulary:
            counted += _margin(piece, data)
        total += min(counted, len(data))  # no token is shorter than a byte
    return ceil(total)


def _margin(text: str, data: bytes) -> float:
    """Returns the tokens that other vocabularies may need besides, for what OpenAI's are good at: digits, spaces, empty
    lines, capitals, repeated letters, and other scripts than Latin."""
    digits = len(data) - len(data.translate(None, _DIGITS))
    capitals = len(data) - len(data.translate(None, _CAPITALS))
    spaces = data.count(_LONG_SPACE) + data.count(_EMPTY_LINE)
    repeated = sum(len(run[0]) for run in _RUN.finditer(text))
    return (len(data) - len(text)) / 2 + digits * 2 / 3 + capitals / 5 + spaces + repeated


def _most_of_media(block: Block, family: Family) -> int:
    if isinstance(block, Image):
        return max(_ORIGINAL_IMAGE_TOKENS, family.image) if block.detail == "original" else family.image
    if isinstance(block, Document) and block.source.text is None:
        return max(_DOCUMENT_TOKENS, _size(block.source))
    if isinstance(block, Audio):
        return _size(block.source) // _SOUND_BYTES_PER_TOKEN + 1
    return 0


def _size(source: Source) -> int:
    return len(source.data or "") * 3 // 4


def _blocks(prompt: Prompt) -> Iterator[Block]:
    """Yields every block, those in tool results among them."""
    for message in prompt.messages:
        for block in message.blocks:
            yield block
            if isinstance(block, ToolResult):
                yield from block.content


def _plain_texts(prompt: Prompt) -> Iterator[str]:
    for block in _blocks(prompt):
        if isinstance(block, Text):
            yield block.text
        elif isinstance(block, ToolCall):
            yield block.arguments
        elif isinstance(block, Document):
            yield block.source.text or ""


def _all_texts(prompt: Prompt) -> Iterator[str]:
    """Yields everything that may reach the model as text, as JSON where it is no text."""
    for message in prompt.messages:
        yield message.name
    for block in _blocks(prompt):
        yield from _texts_of(block)
    for tool in prompt.tools:
        yield from (tool.namespace, tool.name, tool.description, _json(tool.schema), _json(tool.grammar))
    if prompt.format is not None:
        yield from (prompt.format.name, prompt.format.description, _json(prompt.format.schema))
    for value in prompt.foreign.values():
        yield _json(value)


def _texts_of(block: Block) -> Iterator[str]:
    if isinstance(block, Text | Refusal):
        yield block.text
    elif isinstance(block, Thinking):
        yield block.text
        yield _reasoning(block.signature)
    elif isinstance(block, ToolCall):
        yield from (block.id, block.name, block.arguments, _reasoning(block.signature))
    elif isinstance(block, ToolResult):
        yield from (block.call_id, block.name)
    elif isinstance(block, Document):
        yield from (block.title, block.context, block.source.text or "")
    elif isinstance(block, Audio):
        yield block.transcript
    elif isinstance(block, ServerTool):
        yield _json(block.value)


def _reasoning(signature: Opaque | None) -> str:
    """Returns text in place of encrypted reasoning, with about as many tokens: four characters of base64 are three
    bytes, which compress and encrypt no less text than they are."""
    return "" if signature is None else " a" * (len(signature.data) // 4)


def _properties(schema: Any) -> int:
    """Returns the number of fields that a schema describes, at any depth."""
    if isinstance(schema, dict):
        own = schema.get("properties")
        return (len(own) if isinstance(own, dict) else 0) + sum(map(_properties, schema.values()))
    return sum(map(_properties, schema)) if isinstance(schema, list) else 0


def _json(value: Any) -> str:
    return "" if value is None else _encode(value).decode()

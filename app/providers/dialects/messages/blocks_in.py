"""Content blocks of a request, read into the neutral form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from app.domain.content import (
    Block,
    CacheMark,
    Document,
    Image,
    Opaque,
    ServerTool,
    Source,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)
from app.providers.dialects import carrier
from app.providers.dialects.messages.carriers import CALL_KIND, NO_SIGNATURE
from app.providers.dialects.messages.reading import object_of, objects_of, required_text, text_of, wrong

_encode = msgspec.json.Encoder().encode
_KNOWN: dict[str, frozenset[str]] = {
    "text": frozenset({"text", "citations"}),
    "image": frozenset({"source"}),
    "document": frozenset({"source", "title", "context", "citations"}),
    "search_result": frozenset({"source", "title", "content", "citations"}),
    "thinking": frozenset({"thinking", "signature"}),
    "redacted_thinking": frozenset({"data"}),
    "tool_use": frozenset({"id", "name", "input", "caller"}),
    "tool_result": frozenset({"tool_use_id", "content", "is_error"}),
}
_COMMON = frozenset({"type", "cache_control"})
_HARMLESS = frozenset({"transformations"})  # left out without changing what is asked


class Notes:
    """Notes on a request beyond the neutral form: see `content.Prompt`."""

    def __init__(self) -> None:
        self.hints: dict[str, Any] = {}
        self.foreign: dict[str, Any] = {}


def read_content(content: Any, path: str, notes: Notes) -> tuple[Block, ...]:
    """Returns the blocks of a message's content. Raises `InvalidRequest`."""
    if isinstance(content, str):
        return (Text(text=content),)
    blocks: list[Block] = []
    call_signatures: dict[str, Opaque] = {}
    for i, value in enumerate(objects_of(content, path)):
        block = _read_block(value, f"{path}[{i}]", notes)
        if isinstance(block, Opaque):
            call_signatures[block.id] = block
        elif block is not None:
            blocks.append(block)
    if call_signatures:
        blocks = [_signed(block, call_signatures) for block in blocks]
    return tuple(blocks)


def read_texts(content: Any, path: str, notes: Notes) -> tuple[Block, ...]:
    """Returns the blocks of a system prompt, which are text. Raises `InvalidRequest` for others."""
    blocks = read_content(content, path, notes)
    for i, block in enumerate(blocks):
        if not isinstance(block, Text):
            raise wrong(f"{path}[{i}].type", "`text`")
    return blocks


def cache_mark(value: dict[str, Any], path: str) -> CacheMark | None:
    """Returns the mark up to which the vendor is to cache, None without one."""
    control = value.get("cache_control")
    if control is None:
        return None
    return CacheMark(ttl=text_of(object_of(control, f"{path}.cache_control"), "ttl", f"{path}.cache_control"))


def read_source(value: dict[str, Any], path: str) -> Source:
    """Returns the source of a picture or document. Raises `InvalidRequest` for one of an unknown type."""
    kind, media_type = text_of(value, "type", path), text_of(value, "media_type", path)
    if kind == "base64":
        return Source(media_type=media_type, data=required_text(value, "data", path))
    if kind == "url":
        return Source(media_type=media_type, url=required_text(value, "url", path))
    if kind == "file":
        return Source(media_type=media_type, file_id=required_text(value, "file_id", path))
    if kind == "text":
        return Source(media_type=media_type or "text/plain", text=required_text(value, "data", path))
    raise wrong(f"{path}.type", "`base64`, `url`, `file` or `text`")


def _read_block(value: dict[str, Any], path: str, notes: Notes) -> Block | Opaque | None:
    """Returns the block, or the signature of a call that stands in a block of its own, or None for one left out."""
    kind = value.get("type")
    reader = _READERS.get(kind) if isinstance(kind, str) else None
    if reader is None:
        required_text(value, "type", path)
        return ServerTool(dialect="messages", value=value)
    for name in value.keys() - _KNOWN[str(kind)] - _COMMON:
        (notes.hints if name in _HARMLESS else notes.foreign)[f"{path}.{name[:64]}"] = value[name]
    return reader(value, path, notes)


def _read_text(value: dict[str, Any], path: str, notes: Notes) -> Text:
    citations = tuple(objects_of(value.get("citations"), f"{path}.citations"))
    return Text(text=required_text(value, "text", path), citations=citations, cache=cache_mark(value, path))


def _read_image(value: dict[str, Any], path: str, notes: Notes) -> Image:
    source = read_source(object_of(value.get("source"), f"{path}.source"), f"{path}.source")
    return Image(source=source, cache=cache_mark(value, path))


def _read_document(value: dict[str, Any], path: str, notes: Notes) -> Document:
    source, bag = object_of(value.get("source"), f"{path}.source"), {}
    if source.get("type") == "content":
        bag["source"] = source
        read = Source(media_type="text/plain", text=_joined(source.get("content"), f"{path}.source.content", notes))
    else:
        read = read_source(source, f"{path}.source")
    return Document(
        source=read,
        title=text_of(value, "title", path),
        context=text_of(value, "context", path),
        cites=object_of(value.get("citations"), f"{path}.citations").get("enabled") is True,
        cache=cache_mark(value, path),
        bag=bag,
    )


def _read_search_result(value: dict[str, Any], path: str, notes: Notes) -> Document:
    return Document(
        source=Source(media_type="text/plain", text=_joined(value.get("content"), f"{path}.content", notes)),
        title=text_of(value, "title", path),
        context=text_of(value, "source", path),
        cites=object_of(value.get("citations"), f"{path}.citations").get("enabled") is True,
        cache=cache_mark(value, path),
        bag={"search_result": {"source": value.get("source"), "content": value.get("content")}},
    )


def _joined(content: Any, path: str, notes: Notes) -> str:
    blocks = read_content(content, path, notes)
    for i, block in enumerate(blocks):
        if not isinstance(block, Text):
            notes.foreign[f"{path}[{i}].{type(block).__name__.lower()}"] = None
    return "\n\n".join(block.text for block in blocks if isinstance(block, Text))


def _read_thinking(value: dict[str, Any], path: str, notes: Notes) -> Thinking | Opaque:
    text, signature = text_of(value, "thinking", path), text_of(value, "signature", path)
    opaque = carrier.unpack(signature)
    if opaque is None:
        if signature:
            notes.hints["messages[].content[].signature"] = True
        return Thinking(text=text, cache=cache_mark(value, path))
    if opaque.kind.startswith(CALL_KIND):
        return opaque
    return Thinking(text=text, signature=None if opaque == NO_SIGNATURE else opaque, cache=cache_mark(value, path))


def _read_redacted(value: dict[str, Any], path: str, notes: Notes) -> Thinking | None:
    opaque = carrier.unpack(text_of(value, "data", path))
    if opaque is None:
        notes.hints["messages[].content[].redacted_thinking"] = True
        return None
    return Thinking(signature=opaque)


def _read_tool_use(value: dict[str, Any], path: str, notes: Notes) -> ToolCall:
    given = object_of(value.get("input"), f"{path}.input")
    return ToolCall(
        id=required_text(value, "id", path),
        name=required_text(value, "name", path),
        arguments=_encode(given).decode() if given else "",
        cache=cache_mark(value, path),
    )


def _read_tool_result(value: dict[str, Any], path: str, notes: Notes) -> ToolResult:
    content: list[Text | Image | Document] = []
    blocks: Sequence[Block] = ()
    if value.get("content") is not None:
        blocks = read_content(value["content"], f"{path}.content", notes)
    for i, block in enumerate(blocks):
        if isinstance(block, Text | Image | Document):
            content.append(block)
        else:
            kind = block.value.get("type") if isinstance(block, ServerTool) else type(block).__name__.lower()
            notes.foreign[f"{path}.content[{i}].{kind}"] = None
    return ToolResult(
        call_id=required_text(value, "tool_use_id", path),
        content=tuple(content),
        is_error=value.get("is_error") is True,
        cache=cache_mark(value, path),
    )


def _signed(block: Block, signatures: dict[str, Opaque]) -> Block:
    if not isinstance(block, ToolCall) or block.id not in signatures:
        return block
    found = signatures[block.id]
    signature = Opaque(found.origin, found.kind.removeprefix(CALL_KIND), found.data)
    return msgspec.structs.replace(block, signature=signature)


_READERS: dict[str, Callable[[dict[str, Any], str, Notes], Block | Opaque | None]] = {
    "text": _read_text,
    "image": _read_image,
    "document": _read_document,
    "search_result": _read_search_result,
    "thinking": _read_thinking,
    "redacted_thinking": _read_redacted,
    "tool_use": _read_tool_use,
    "tool_result": _read_tool_result,
}

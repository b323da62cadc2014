"""Content blocks of a vendor's request, written from the neutral form."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from typing import Any

import msgspec

from app.domain.content import (
    Audio,
    Block,
    CacheMark,
    Document,
    Image,
    Refusal,
    ServerTool,
    Source,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)
from app.providers.dialects import custom_tools
from app.providers.dialects.dialect import Outgoing
from app.providers.dialects.messages.thinking import TITLE

_decode = msgspec.json.Decoder().decode
_CITATIONS = (
    "char_location",
    "page_location",
    "content_block_location",
    "web_search_result_location",
    "search_result_location",
)


def write_blocks(blocks: Iterable[Block], path: str, outgoing: Outgoing) -> list[dict[str, Any]]:
    """Returns the blocks without those that say nothing: the vendors refuse empty text."""
    written = []
    for i, block in enumerate(blocks):
        value = _write(block, f"{path}[{i}]", outgoing)
        if value is not None:
            if block.cache is not None and value["type"] not in ("thinking", "redacted_thinking"):
                value["cache_control"] = write_mark(block.cache)
            written.append(value)
    return written


def write_mark(mark: CacheMark) -> dict[str, Any]:
    """Returns a mark up to which the vendor is to cache."""
    return {"type": "ephemeral", "ttl": mark.ttl} if mark.ttl in ("5m", "1h") else {"type": "ephemeral"}


def own_citations(citations: Iterable[Any]) -> list[Any]:
    """Returns those of the citations that are in this dialect's form."""
    return [each for each in citations if isinstance(each, dict) and each.get("type") in _CITATIONS]


def write_input(call: ToolCall) -> dict[str, Any]:
    """Returns the call's arguments as an object: what is no JSON object is kept as text in one."""
    if call.custom:
        return custom_tools.wrap(call.arguments)
    if not call.arguments.strip():
        return {}
    try:
        found = _decode(call.arguments)
    except (ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {"arguments": call.arguments}


def _write(block: Block, path: str, outgoing: Outgoing) -> dict[str, Any] | None:
    if isinstance(block, Text):
        return _write_text(block, outgoing)
    if isinstance(block, ToolCall):
        if block.signature is not None:
            outgoing.leave_out("messages[].content[].signature")
        return {"type": "tool_use", "id": block.id, "name": block.name, "input": write_input(block)}
    if isinstance(block, ToolResult):
        return _write_result(block, path, outgoing)
    if isinstance(block, Thinking):
        return _write_thinking(block, outgoing)
    if isinstance(block, Image):
        if block.detail not in ("", "auto"):
            outgoing.leave_out(f"{path}.detail")
        source = _write_source(block.source, path, outgoing)
        return None if source is None else {"type": "image", "source": source}
    if isinstance(block, Document):
        return _write_document(block, path, outgoing)
    if isinstance(block, Audio):
        outgoing.refuse(f"{path}.input_audio", TITLE)
        return {"type": "text", "text": block.transcript} if block.transcript.strip() else None
    if isinstance(block, Refusal):
        return {"type": "text", "text": block.text} if block.text.strip() else None
    return _write_server_tool(block, path, outgoing)


def _write_text(block: Text, outgoing: Outgoing) -> dict[str, Any] | None:
    if not block.text.strip():
        return None
    value: dict[str, Any] = {"type": "text", "text": block.text}
    citations = own_citations(block.citations)
    if len(citations) < len(block.citations):
        outgoing.leave_out("messages[].content[].citations")
    return {**value, "citations": citations} if citations else value


def _write_thinking(block: Thinking, outgoing: Outgoing) -> dict[str, Any] | None:
    signature = block.signature
    if signature is None or signature.origin != outgoing.origin:
        outgoing.leave_out("messages[].content[].thinking")
        return None
    if signature.kind == "redacted_thinking":
        return {"type": "redacted_thinking", "data": signature.data}
    return {"type": "thinking", "thinking": block.text, "signature": signature.data}


def _write_result(block: ToolResult, path: str, outgoing: Outgoing) -> dict[str, Any]:
    value: dict[str, Any] = {"type": "tool_result", "tool_use_id": block.call_id}
    content = write_blocks(block.content, f"{path}.content", outgoing)
    if len(content) == 1 and content[0].keys() == {"type", "text"}:
        value["content"] = content[0]["text"]
    elif content:
        value["content"] = content
    if block.is_error:
        value["is_error"] = True
    return value


def _write_document(block: Document, path: str, outgoing: Outgoing) -> dict[str, Any] | None:
    cites = {"citations": {"enabled": True}} if block.cites else {}
    if "search_result" in block.bag:
        return {"type": "search_result", "title": block.title, **block.bag["search_result"], **cites}
    source = block.bag.get("source") or _write_document_source(block.source, path, outgoing)
    if source is None:
        return None
    value: dict[str, Any] = {"type": "document", "source": source}
    if block.title:
        value["title"] = block.title
    if block.context:
        value["context"] = block.context
    return value | cites


def _write_document_source(source: Source, path: str, outgoing: Outgoing) -> dict[str, Any] | None:
    media_type = source.media_type.partition(";")[0].strip().lower()
    if source.data is not None and media_type not in ("", "application/pdf"):
        # Vendors of this dialect read PDFs and plain text only.
        text = _decoded_text(source.data) if media_type.startswith("text/") or media_type.endswith("json") else None
        if text is None:
            outgoing.refuse(f"{path}.{media_type}", TITLE)
            return None
        return {"type": "text", "media_type": "text/plain", "data": text}
    if source.data is not None:
        return {"type": "base64", "media_type": "application/pdf", "data": source.data}
    return _write_source(source, path, outgoing)


def _write_source(source: Source, path: str, outgoing: Outgoing) -> dict[str, Any] | None:
    if source.data is not None:
        return {"type": "base64", "media_type": source.media_type or "image/png", "data": source.data}
    if source.url is not None:
        return {"type": "url", "url": source.url}
    if source.text is not None:
        return {"type": "text", "media_type": "text/plain", "data": source.text}
    outgoing.refuse(f"{path}.file_id", TITLE)  # of a file that another vendor stores
    return None


def _decoded_text(data: str) -> str | None:
    try:
        return base64.b64decode(data, validate=True).decode()
    except (binascii.Error, ValueError):
        return None


def _write_server_tool(block: ServerTool, path: str, outgoing: Outgoing) -> dict[str, Any] | None:
    if block.dialect == "messages":
        return dict(block.value)
    outgoing.leave_out(f"{path}.{block.value.get('type', 'server_tool')}")
    return None

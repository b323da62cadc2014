"""Cost bounds of messages, Anthropic's dialect: refuses, for callers with a budget, what may cost any amount."""

from __future__ import annotations

from typing import Any

import msgspec

from app.domain.body import check_field_names, decode_body
from app.errors import InvalidRequest

_MESSAGE_FIELDS = frozenset({"role", "content"})
# Blocks whose tokens are bounded by their bytes, or by the most that a picture can cost, with the fields they have.
_COMMON = frozenset({"type", "cache_control"})
_BLOCKS: dict[str, frozenset[str]] = {
    "text": _COMMON | {"text", "citations"},
    "image": _COMMON | {"source", "transformations"},
    "document": _COMMON | {"source", "title", "context", "citations"},
    "search_result": _COMMON | {"source", "title", "content", "citations"},
    "thinking": _COMMON | {"thinking", "signature"},
    "redacted_thinking": _COMMON | {"data"},
    "tool_use": _COMMON | {"id", "name", "input", "caller", "toolset_name"},
    "tool_result": _COMMON | {"tool_use_id", "content", "is_error", "toolset_name"},
    "tool_reference": _COMMON | {"tool_name"},
}
_SOURCES = {"image": ("base64", "url"), "document": ("text",)}
_SOURCE_FIELDS = frozenset({"type", "media_type", "data", "url"})
# Fields by which the vendor reads what is not in the body, asks other models, or bills more than one prompt.
_UNBOUNDED_FIELDS = ("container", "mcp_servers", "thread", "fallbacks", "compaction", "fallback_credit_token")
_BOUNDED_EDITS = "clear_"  # edits of the context that only take something away
# Tools that the caller runs itself, by the beginnings of their types. The vendor runs the others, in a loop that bills
# the prompt once a turn.
_CLIENT_TOOLS = ("custom", "bash_", "text_editor_", "memory_", "computer_", "browser_", "tool_search_")
_TOOL_FIELDS = frozenset(
    {"type", "name", "description", "input_schema", "cache_control", "strict", "defer_loading", "allowed_callers"}
)
_OBJECT = msgspec.json.Decoder(dict[str, Any])
_OBJECTS: msgspec.json.Decoder[list[dict[str, Any]]] = msgspec.json.Decoder(list[dict[str, Any]])
_TOOLS: msgspec.json.Decoder[list[dict[str, Any]] | None] = msgspec.json.Decoder(list[dict[str, Any]] | None)
_SYSTEM = msgspec.json.Decoder(str | list[dict[str, Any]] | None)


def checked_messages(raw: msgspec.Raw) -> list[dict[str, Any]]:
    """Returns the messages. Raises `InvalidRequest` for content without a bound on its cost."""
    messages = decode_body(_OBJECTS, bytes(raw))
    for i, message in enumerate(messages):
        path = f"messages[{i}]"
        check_field_names(message, _MESSAGE_FIELDS, f"{path}.")
        if not message.keys() <= _MESSAGE_FIELDS:
            raise _unbounded(f"{path}.{min(message.keys() - _MESSAGE_FIELDS)[:64]}")
        _check_content(message["content"], f"{path}.content")
    return messages


def checked_system(raw: msgspec.Raw) -> Any:
    """Returns the system prompt. Raises `InvalidRequest` if there is more in it than text."""
    system = decode_body(_SYSTEM, bytes(raw))
    for i, block in enumerate(system if isinstance(system, list) else ()):
        if block.get("type") != "text" or not block.keys() <= _BLOCKS["text"]:
            raise _unbounded(f"system[{i}]")
    return system


def check_fields(fields: dict[str, msgspec.Raw]) -> None:
    """Raises `InvalidRequest` for a top-level field that makes the cost of a call unknown."""
    for name in _UNBOUNDED_FIELDS:
        if name in fields and bytes(fields[name]) != b"null":
            raise _unbounded(name)
    if "context_management" in fields and bytes(fields["context_management"]) != b"null":
        edits = decode_body(_OBJECT, bytes(fields["context_management"])).get("edits") or ()
        for i, edit in enumerate(edits if isinstance(edits, list) else (edits,)):
            kind = edit.get("type") if isinstance(edit, dict) else None
            if not (isinstance(kind, str) and kind.startswith(_BOUNDED_EDITS)):
                raise _unbounded(f"context_management.edits[{i}]")


def checked_tools(raw: msgspec.Raw) -> list[dict[str, Any]] | None:
    """Returns the tools. Raises `InvalidRequest` for one that the vendor runs, and for an odd spelling of a field."""
    tools = decode_body(_TOOLS, bytes(raw))
    for i, tool in enumerate(tools or ()):
        check_field_names(tool, _TOOL_FIELDS, f"tools[{i}].")
        kind = tool.get("type")
        if kind is not None and not (isinstance(kind, str) and kind.startswith(_CLIENT_TOOLS)):
            raise _unbounded(f"tools[{i}]")
    return tools


def _check_content(content: Any, path: str) -> None:
    for i, block in enumerate(content if isinstance(content, list) else ()):
        kind = block.get("type") if isinstance(block, dict) else None
        known = _BLOCKS.get(kind) if isinstance(kind, str) else None
        if known is None or not block.keys() <= known:
            raise _unbounded(f"{path}[{i}]")
        source = block.get("source")
        if kind in _SOURCES and not (
            isinstance(source, dict) and source.get("type") in _SOURCES[kind] and source.keys() <= _SOURCE_FIELDS
        ):
            raise _unbounded(f"{path}[{i}].source")
        if "content" in block:
            _check_content(block["content"], f"{path}[{i}].content")


def _unbounded(param: str) -> InvalidRequest:
    return InvalidRequest(
        f"Your plan has a budget, and what `{param}` costs cannot be known before it is spent: expected text, "
        f"pictures, thinking, and tools that the caller runs.",
        param=param,
    )

"""Cost bounds of Responses requests: refuses what has no bound known beforehand, for callers with a budget."""

from __future__ import annotations

from typing import Any

from app.domain.body import check_field_names
from app.errors import InvalidRequest

# Types of items whose tokens are bounded by their bytes and pictures, each with the field that says what it is: for an
# item that lacks it, the vendor takes its own copy by the id. Other types stand for something that the vendor keeps
# (`item_reference`), or for results that it adds (`file_search_call`).
_BOUNDED_ITEMS = {
    "message": "content",
    "function_call": "arguments",
    "function_call_output": "output",
    "custom_tool_call": "input",
    "custom_tool_call_output": "output",
    "reasoning": "encrypted_content",
    "local_shell_call": "action",
    "local_shell_call_output": "output",
    "shell_call": "action",
    "shell_call_output": "output",
    "apply_patch_call": "operation",
    "apply_patch_call_output": "status",
    "tool_search_call": "arguments",
    "tool_search_output": "tools",
    "web_search_call": "action",
}
_ITEM_FIELDS = frozenset({"type", "role", "summary", *_BOUNDED_ITEMS.values()})
_MESSAGE_PARTS = {
    "input_text": frozenset({"text"}),
    "output_text": frozenset({"text", "annotations", "logprobs"}),
    "text": frozenset({"text"}),
    "refusal": frozenset({"refusal"}),
    "input_image": frozenset({"image_url", "file_id", "detail"}),
    "input_audio": frozenset({"input_audio"}),
    "reasoning_text": frozenset({"text"}),
    "summary_text": frozenset({"text"}),
}
_COMMON_PART_FIELDS = frozenset({"type", "prompt_cache_breakpoint"})
_UNTYPED_OUTPUTS = frozenset({"shell_call_output"})
# Tools that run at the caller's, or that the vendor bills by the search, for which admission has room.
_BOUNDED_TOOLS = frozenset(
    {
        "function",
        "custom",
        "namespace",
        "local_shell",
        "shell",
        "apply_patch",
        "tool_search",
        "web_search",
        "web_search_2025_08_26",
        "web_search_preview",
        "web_search_preview_2025_03_11",
    }
)
# Tools in a namespace, or that a search has found: the caller's own.
_FOUND_TOOLS = frozenset({"function", "custom", "namespace"})
_TOOL_FIELDS = frozenset({"type", "tools"})


def check_items(items: list[dict[str, Any]]) -> None:
    """Raises `InvalidRequest` for an item without a bound on its cost, and for a field name in an odd spelling."""
    for i, item in enumerate(items):
        path = f"input[{i}]"
        check_field_names(item, _ITEM_FIELDS, f"{path}.")
        kind = item.get("type") or ("message" if item.get("role") else "item_reference")
        if kind not in _BOUNDED_ITEMS:
            raise _unbounded(path, f"items of type {', '.join(sorted(_BOUNDED_ITEMS))}")
        substance = item.get(_BOUNDED_ITEMS[kind])
        if substance is None or (kind == "reasoning" and not substance):
            raise _unbounded(path, f"the item itself, with its `{_BOUNDED_ITEMS[kind]}`")
        if item.get("tools") is not None:
            check_tools(item["tools"], f"{path}.tools", _FOUND_TOOLS)
        for name in ("content", "output"):
            parts = item.get(name)
            if isinstance(parts, list) and kind not in _UNTYPED_OUTPUTS:
                for j, part in enumerate(parts):
                    _check_part(part, f"{path}.{name}[{j}]")


def check_tools(tools: Any, path: str = "tools", bounded: frozenset[str] = _BOUNDED_TOOLS) -> None:
    """Raises `InvalidRequest` for a tool that the vendor runs at an unknown cost, in a namespace too."""
    for i, tool in enumerate(tools if isinstance(tools, list) else [tools]):
        where = f"{path}[{i}]"
        kind = tool.get("type") if isinstance(tool, dict) else None
        if not isinstance(kind, str) or kind not in bounded:
            raise _unbounded(where, f"tools of type {', '.join(sorted(bounded))}")
        check_field_names(tool, _TOOL_FIELDS, f"{where}.")
        if tool.get("tools") is not None:
            check_tools(tool["tools"], f"{where}.tools", _FOUND_TOOLS)


def _check_part(part: dict[str, Any], path: str) -> None:
    kind = part.get("type", "")
    allowed = _MESSAGE_PARTS.get(kind) if isinstance(kind, str) else None
    if allowed is None or not part.keys() <= allowed | _COMMON_PART_FIELDS:
        expected = f"parts of type {', '.join(sorted(_MESSAGE_PARTS))}, and nothing else in them"
        raise _unbounded(path, expected)


def _unbounded(param: str, expected: str) -> InvalidRequest:
    return InvalidRequest(
        f"Your plan has a budget, and what `{param}` costs cannot be known before it is spent: expected {expected}.",
        param=param,
    )

"""Cost bounds of Responses requests: refuses what has no bound known beforehand, for callers with a budget."""

from __future__ import annotations

from typing import Any

from app.domain.body import check_field_names
from app.errors import InvalidRequest

_ITEM_FIELDS = frozenset({"type", "role", "content", "output", "summary", "encrypted_content", "arguments", "input"})
# Types of items whose tokens are bounded by their bytes and pictures. Others stand for something that the vendor
# keeps (`item_reference`), or for results that it adds (`file_search_call`).
_BOUNDED_ITEMS = frozenset(
    {
        "message",
        "function_call",
        "function_call_output",
        "custom_tool_call",
        "custom_tool_call_output",
        "reasoning",
        "local_shell_call",
        "local_shell_call_output",
        "shell_call",
        "shell_call_output",
        "apply_patch_call",
        "apply_patch_call_output",
        "tool_search_call",
        "tool_search_output",
        "web_search_call",
    }
)
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


def check_items(items: list[dict[str, Any]]) -> None:
    """Raises `InvalidRequest` for an item without a bound on its cost, and for a field name in an odd spelling."""
    for i, item in enumerate(items):
        path = f"input[{i}]"
        check_field_names(item, _ITEM_FIELDS, f"{path}.")
        kind = item.get("type") or ("message" if item.get("role") else "item_reference")
        if kind not in _BOUNDED_ITEMS:
            raise _unbounded(path, f"items of type {', '.join(sorted(_BOUNDED_ITEMS))}")
        for name in ("content", "output"):
            parts = item.get(name)
            if isinstance(parts, list) and kind not in _UNTYPED_OUTPUTS:
                for j, part in enumerate(parts):
                    _check_part(part, f"{path}.{name}[{j}]")


def check_tools(tools: list[dict[str, Any]]) -> None:
    """Raises `InvalidRequest` for a tool that the vendor runs at an unknown cost."""
    for i, tool in enumerate(tools):
        check_field_names(tool, frozenset({"type"}), f"tools[{i}].")
        kind = tool.get("type")
        if not isinstance(kind, str) or kind not in _BOUNDED_TOOLS:
            raise _unbounded(f"tools[{i}]", f"tools of type {', '.join(sorted(_BOUNDED_TOOLS))}")


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

"""Items of an answer: written the same whether it comes whole or piece by piece."""

from __future__ import annotations

from typing import Any

import msgspec

from app.domain.content import Opaque, ToolCall
from app.providers.dialects import carrier
from app.providers.dialects.dialect import Framing
from app.providers.dialects.responses.names import namespaced_names
from app.providers.dialects.responses.request_out import ID_RULE
from app.providers.dialects.tool_ids import AnswerIds

_PREFIXES = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "custom_tool_call": "ctc",
    "image_generation_call": "ig",
}


class AnswerItems:
    """The items of one answer, each with an id of its own, and names of tools as the caller has them."""

    def __init__(self, framing: Framing) -> None:
        self._call_id = framing.call_id
        self._tool_ids = AnswerIds(ID_RULE, framing.call_id)
        tools = framing.fields.get("tools")
        has_namespaces = any(tool.namespace for tool in framing.prompt.tools)
        self._names = namespaced_names(msgspec.json.decode(tools)) if tools is not None and has_namespaces else {}

    def item_id(self, kind: str, index: int) -> str:
        """Returns the id of the item of type `kind` at the output's place `index`."""
        return f"{_PREFIXES[kind]}_{self._call_id}_{index}"

    def message(self, index: int, parts: list[dict[str, Any]], status: str = "completed") -> dict[str, Any]:
        item = {"id": self.item_id("message", index), "type": "message", "status": status}
        return {**item, "role": "assistant", "content": parts}

    def reasoning(self, index: int, text: str, signature: Opaque | None) -> dict[str, Any]:
        summary = [{"type": "summary_text", "text": text}] if text else []
        item = {"id": self.item_id("reasoning", index), "type": "reasoning", "summary": summary}
        return item if signature is None else {**item, "encrypted_content": carrier.pack(signature)}

    def call(self, index: int, block: ToolCall) -> dict[str, Any]:
        """Returns the item of a call that has begun, without its arguments. Each call of this makes a new call id."""
        kind = "custom_tool_call" if block.custom else "function_call"
        item = {"id": self.item_id(kind, index), "type": kind, "status": "in_progress"}
        namespace, name = self._names.get(block.name, ("", block.name))
        item |= {"call_id": self._tool_ids.next(block.id), "name": name}
        if namespace:
            item["namespace"] = namespace
        return {**item, "input" if block.custom else "arguments": ""}


def finished_call(item: dict[str, Any], arguments: str) -> dict[str, Any]:
    """Returns a call's item with all its arguments."""
    if item["type"] == "custom_tool_call":
        return {**item, "status": "completed", "input": arguments}
    return {**item, "status": "completed", "arguments": arguments or "{}"}

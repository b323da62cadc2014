"""Items of a conversation, written from messages."""

from __future__ import annotations

from typing import Any

from app.domain.content import (
    Block,
    Image,
    Message,
    Refusal,
    ServerTool,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
)
from app.providers.dialects.dialect import Outgoing
from app.providers.dialects.responses.parts import TITLE, encode_output_text, encode_part

KIND = "encrypted_content"


class ItemWriter:
    """Writes the items of one request."""

    def __init__(self, outgoing: Outgoing, tools: tuple[Tool, ...]) -> None:
        self._outgoing = outgoing
        self._namespaces = {tool.name: tool.namespace for tool in tools if tool.namespace}
        self.items: list[dict[str, Any]] = []

    def add(self, message: Message, path: str) -> None:
        """Adds the items of a message; `path` is its place in the neutral form."""
        if message.name:
            self._outgoing.refuse(f"{path}.name", TITLE)
        parts: list[dict[str, Any]] = []
        for block in message.blocks:
            item = self._item(block, path)
            if item is None:
                part = self._part(message, block, path)
                if part is not None:
                    parts.append(part)
            elif item:
                self._flush(message, parts)
                parts = []
                self.items.append(item)
        self._flush(message, parts)

    def _flush(self, message: Message, parts: list[dict[str, Any]]) -> None:
        if parts:
            item: dict[str, Any] = {"type": "message", "role": message.role}
            phase = parts[0].pop("phase", None)
            self.items.append({**item, "content": parts, **({"phase": phase} if phase else {})})

    def _part(self, message: Message, block: Block, path: str) -> dict[str, Any] | None:
        if message.role != "assistant":
            return encode_part(block, self._outgoing, path)
        if isinstance(block, Text):
            if block.cache is not None:
                self._outgoing.leave_out("cache_control")
            phase = block.bag.get("phase")
            return {**encode_output_text(block), **({"phase": phase} if phase else {})}
        if isinstance(block, Refusal):
            return {"type": "refusal", "refusal": block.text}
        self._outgoing.refuse(f"{path}.{type(block).__name__.lower()}", TITLE)
        return None

    def _item(self, block: Block, path: str) -> dict[str, Any] | None:
        """Returns the block as an item of its own: {} for one that is left out, None for a part of a message."""
        if isinstance(block, ToolCall):
            return self._call(block)
        if isinstance(block, ToolResult):
            return self._result(block, path)
        if isinstance(block, Thinking):
            return self._reasoning(block)
        if isinstance(block, ServerTool):
            if block.dialect == "responses":
                return block.value
            self._outgoing.refuse(f"{path}.{block.value.get('type')}", TITLE)
            return {}
        return None

    def _call(self, block: ToolCall) -> dict[str, Any]:
        if block.cache is not None:
            self._outgoing.leave_out("cache_control")
        if block.custom:
            return {"type": "custom_tool_call", "call_id": block.id, "name": block.name, "input": block.arguments}
        item = {"type": "function_call", "call_id": block.id, **self._named(block.name)}
        return {**item, "arguments": block.arguments or "{}"}

    def _named(self, flat: str) -> dict[str, str]:
        namespace = self._namespaces.get(flat)
        return {"name": flat} if namespace is None else {"name": inner_name(namespace, flat), "namespace": namespace}

    def _result(self, block: ToolResult, path: str) -> dict[str, Any]:
        if block.cache is not None:
            self._outgoing.leave_out("cache_control")
        if block.is_error:
            self._outgoing.leave_out("is_error")
        output: str | list[dict[str, Any]]
        if not block.content:
            output = ""
        elif len(block.content) == 1 and isinstance(block.content[0], Text):
            output = block.content[0].text
        else:
            parts = (encode_part(part, self._outgoing, f"{path}.tool_result") for part in block.content)
            output = [part for part in parts if part is not None]
        kind = "custom_tool_call_output" if block.custom else "function_call_output"
        return {"type": kind, "call_id": block.call_id, "output": output}

    def _reasoning(self, block: Thinking) -> dict[str, Any]:
        signature = block.signature
        if signature is None or signature.origin != self._outgoing.origin or signature.kind != KIND:
            self._outgoing.leave_out("thinking")
            return {}
        summary = [{"type": "summary_text", "text": block.text}] if block.text else []
        item: dict[str, Any] = {"type": "reasoning", "summary": summary, KIND: signature.data}
        return {**item, "id": signature.id} if signature.id else item


def inner_name(namespace: str, flat: str) -> str:
    """Returns the name of a tool inside its namespace, as far as its flat name still tells it."""
    return flat.removeprefix(namespace).removeprefix("__") or flat


def output_image(block: Image, item_id: str) -> dict[str, Any]:
    """Returns the item of a picture that the model made."""
    item = {"id": item_id, "type": "image_generation_call", "status": "completed", "result": block.source.data}
    subtype = block.source.media_type.partition("/")[2]
    return {**item, "output_format": subtype} if subtype else item

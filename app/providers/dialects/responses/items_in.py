"""Items of a conversation, read into messages.

The model's items between two of the caller's are one message, and so are tool results and what the user says
after them.
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from app.domain.content import (
    Block,
    Image,
    Message,
    Opaque,
    Role,
    ServerTool,
    Source,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)
from app.providers.dialects import carrier
from app.providers.dialects.responses.names import called_name
from app.providers.dialects.responses.parts import decode_part
from app.providers.dialects.responses.signatures import AFTER, BEFORE, belongs_to_call

_CALLS = {"function_call": "arguments", "custom_tool_call": "input"}
_RESULTS = frozenset({"function_call_output", "custom_tool_call_output"})
_ROLES: dict[object, Role] = {"system": "system", "developer": "developer", "user": "user", "assistant": "assistant"}


class Turns:
    """The messages of a conversation, built item by item. What has no neutral word goes into `hints` and `foreign`."""

    def __init__(self, hints: dict[str, Any], foreign: dict[str, Any]) -> None:
        self._hints = hints
        self._foreign = foreign
        self._turns: list[tuple[Role, list[Block]]] = []
        self._awaited: Opaque | None = None  # the signature of the next call

    @property
    def messages(self) -> tuple[Message, ...]:
        """The messages so far; those without any block are left out."""
        return tuple(Message(role=role, blocks=tuple(blocks)) for role, blocks in self._turns if blocks)

    def add(self, item: dict[str, Any], path: str) -> None:
        """Adds one item of the input."""
        kind = item.get("type") or ("message" if item.get("role") else "item_reference")
        if kind == "message":
            self._add_message(item, path)
        elif kind in _CALLS:
            self._add_call(item, str(item.get(_CALLS[kind]) or ""), custom=kind == "custom_tool_call")
        elif kind in _RESULTS:
            self._add_result(item, path, custom=kind == "custom_tool_call_output")
        elif kind == "reasoning":
            self._add_reasoning(item, path)
        elif kind == "item_reference":
            self._foreign[f"{path}.item_reference"] = item
        elif kind == "image_generation_call" and isinstance(item.get("result"), str):
            self._model(read_picture(item))
        else:
            self._model(ServerTool(dialect="responses", value=item))

    def _add_message(self, item: dict[str, Any], path: str) -> None:
        role = _ROLES.get(item.get("role"), "user")
        content = item.get("content")
        blocks: list[Block] = []
        if isinstance(content, str):
            blocks.append(Text(text=content))
        elif isinstance(content, list):
            blocks += self._parts(content, f"{path}.content")
        if role == "assistant":
            phase = item.get("phase")
            if phase and blocks and isinstance(blocks[0], Text):
                blocks[0] = replace(blocks[0], bag={**blocks[0].bag, "phase": phase})
            self._model(*blocks)
        elif role == "user" and self._turns and self._turns[-1][0] == "user" and _only_results(self._turns[-1][1]):
            self._turns[-1][1].extend(blocks)
        else:
            self._turns.append((role, blocks))

    def _add_call(self, item: dict[str, Any], arguments: str, *, custom: bool) -> None:
        signature, self._awaited = self._awaited, None
        call_id = str(item.get("call_id") or item.get("id") or "")
        name = called_name(item)
        self._model(ToolCall(id=call_id, name=name, arguments=arguments, custom=custom, signature=signature))

    def _add_result(self, item: dict[str, Any], path: str, *, custom: bool) -> None:
        output = item.get("output")
        content: list[Any] = [Text(text=output)] if isinstance(output, str) and output else []
        if isinstance(output, list):
            content = self._parts(output, f"{path}.output")
        name = item.get("name")
        result = ToolResult(
            call_id=str(item.get("call_id") or ""),
            content=tuple(content),
            name=name if isinstance(name, str) else "",
            custom=custom,
        )
        if self._turns and self._turns[-1][0] == "user" and _only_results(self._turns[-1][1]):
            self._turns[-1][1].append(result)
        else:
            self._turns.append(("user", [result]))

    def _add_reasoning(self, item: dict[str, Any], path: str) -> None:
        encrypted = item.get("encrypted_content")
        signature = carrier.unpack(encrypted)
        if signature is None and encrypted:
            self._hints[f"{path}.encrypted_content"] = encrypted
        if signature is not None and belongs_to_call(signature):
            self._sign_call(signature)
            return
        text = reasoning_text(item)
        if text or signature is not None:
            self._model(Thinking(text=text, signature=signature))

    def _sign_call(self, signature: Opaque) -> None:
        own = replace(signature, kind=signature.kind.removeprefix(BEFORE).removeprefix(AFTER))
        if signature.kind.startswith(BEFORE):
            self._awaited = own
            return
        blocks = self._turns[-1][1] if self._turns else []
        if blocks and isinstance(blocks[-1], ToolCall):
            blocks[-1] = replace(blocks[-1], signature=own)

    def _parts(self, parts: list[Any], path: str) -> list[Block]:
        found = (decode_part(part, f"{path}[{j}]", self._hints, self._foreign) for j, part in enumerate(parts))
        return [part for part in found if part is not None]

    def _model(self, *blocks: Block) -> None:
        if self._turns and self._turns[-1][0] == "assistant":
            self._turns[-1][1].extend(blocks)
        else:
            self._turns.append(("assistant", list(blocks)))


def reasoning_text(item: dict[str, Any]) -> str:
    """Returns the text of a reasoning item: its summary, or where it has none the reasoning itself."""
    for name in ("summary", "content"):
        parts = item.get(name)
        texts = [part.get("text") for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
        text = "\n\n".join(text for text in texts if isinstance(text, str) and text)
        if text:
            return text
    return ""


def read_picture(item: dict[str, Any]) -> Image:
    """Returns the picture of an `image_generation_call`."""
    return Image(source=Source(media_type=f"image/{item.get('output_format') or 'png'}", data=item["result"]))


def _only_results(blocks: list[Block]) -> bool:
    return bool(blocks) and all(isinstance(block, ToolResult) for block in blocks)

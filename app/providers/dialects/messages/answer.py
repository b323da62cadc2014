"""Whole answers: a vendor's read into the neutral form, and a caller's written from it."""

from __future__ import annotations

from typing import Any

import msgspec

from app.domain.content import (
    Answer,
    Audio,
    Block,
    Image,
    Opaque,
    Refusal,
    ServerTool,
    Text,
    Thinking,
    ToolCall,
)
from app.providers.dialects.dialect import Framing
from app.providers.dialects.messages import stops
from app.providers.dialects.messages.blocks_out import own_citations, write_input
from app.providers.dialects.messages.carriers import pack_call, pack_thinking
from app.providers.dialects.messages.request_out import RULE
from app.providers.dialects.messages.usage import to_usage, write_usage
from app.providers.dialects.tool_ids import AnswerIds

_encode = msgspec.json.Encoder().encode
UNWRITABLE = "[The model answered with content that the Anthropic messages API cannot carry.]"


class _Message(msgspec.Struct, frozen=True):
    content: list[dict[str, Any]]
    id: str = ""
    model: str = ""
    stop_reason: str | None = None
    stop_sequence: str | None = None
    stop_details: object = None
    usage: dict[str, Any] | None = None


_decode = msgspec.json.Decoder(_Message).decode


def decode_answer(body: bytes, origin: str) -> Answer:
    """Returns the vendor's answer. Raises `ValueError` for a body that is none."""
    message = _decode(body)
    stop = stops.read_stop(message.stop_reason)
    blocks = [read_answer_block(value, origin) for value in message.content]
    explanation = stops.read_explanation(message.stop_details) if stop == "refusal" else ""
    if explanation:
        if blocks and isinstance(blocks[-1], Text) and blocks[-1].text == explanation:
            blocks.pop()
        blocks.append(Refusal(text=explanation))
    usage = to_usage(message.usage) if message.usage is not None else None
    return Answer(
        id=message.id,
        model=message.model,
        blocks=tuple(blocks),
        stop=stop,
        native_stop=message.stop_reason or "",
        stop_sequence=message.stop_sequence,
        usage=usage,
        service_tier=usage.service_tier if usage else "",
    )


def read_answer_block(value: dict[str, Any], origin: str) -> Block:
    """Returns a block of an answer; one of a kind that only this dialect has is kept as it is."""
    kind = value.get("type")
    if kind == "text":
        citations = value.get("citations")
        found = tuple(filter(is_citation, citations)) if isinstance(citations, list) else ()
        return Text(text=_text(value, "text"), citations=found)
    if kind == "thinking":
        signature = _text(value, "signature")
        return Thinking(
            text=_text(value, "thinking"),
            signature=Opaque(origin, "signature", signature) if signature else None,
        )
    if kind == "redacted_thinking":
        return Thinking(signature=Opaque(origin, "redacted_thinking", _text(value, "data")))
    if kind == "tool_use":
        given = value.get("input")
        arguments = _encode(given).decode() if given else ""
        return ToolCall(id=_text(value, "id"), name=_text(value, "name"), arguments=arguments)
    return ServerTool(dialect="messages", value=value)


def is_citation(value: object) -> bool:
    """Returns whether `value` says what kind of citation it is."""
    return isinstance(value, dict) and isinstance(value.get("type"), str)


def encode_answer(answer: Answer, framing: Framing) -> bytes:
    """Returns the body for the caller."""
    ids = AnswerIds(RULE, framing.call_id)
    content: list[dict[str, Any]] = []
    for block in answer.blocks:
        content += _write_block(block, ids)
    while content and content[-1].get("thinking") == "":
        content.pop()  # a signature alone: clients take the last block for the answer
    refusal = stops.refusal_in(answer.blocks)
    reason = stops.write_stop(answer.stop, calls=stops.calls_in(answer.blocks), refusal=refusal)
    message = {
        **message_head(answer.id, answer.model or framing.prompt.model, framing),
        "content": content,
        "stop_reason": reason,
        "stop_sequence": answer.stop_sequence,
        "usage": write_usage(answer.usage),
    }
    details = stops.write_details(reason, refusal)
    return _encode(message if details is None else message | {"stop_details": details})


def message_head(answer_id: str, model: str, framing: Framing) -> dict[str, Any]:
    """Returns the fields with which a message begins."""
    return {
        "id": answer_id if answer_id.startswith("msg_") else f"msg_{framing.call_id}",
        "type": "message",
        "role": "assistant",
        "model": model,
    }


def _write_block(block: Block, ids: AnswerIds) -> list[dict[str, Any]]:
    if isinstance(block, Text):
        citations = own_citations(block.citations)
        value = {"type": "text", "text": block.text}
        return [value | {"citations": citations} if citations else value] if block.text else []
    if isinstance(block, Refusal):
        return [{"type": "text", "text": block.text}] if block.text else []
    if isinstance(block, Thinking):
        return [{"type": "thinking", "thinking": block.text, "signature": pack_thinking(block.signature)}]
    if isinstance(block, ToolCall):
        call_id = ids.next(block.id)
        call = {"type": "tool_use", "id": call_id, "name": block.name, "input": write_input(block)}
        if block.signature is None:
            return [call]
        return [{"type": "thinking", "thinking": "", "signature": pack_call(block.signature, call_id)}, call]
    if isinstance(block, ServerTool):
        # Another vendor's search has left its traces in the text; its own record is in no form that clients could read.
        return [block.value] if block.dialect == "messages" else []
    transcript = block.transcript if isinstance(block, Audio) else ""
    return [{"type": "text", "text": transcript or UNWRITABLE}] if isinstance(block, Audio | Image) else []


def _text(value: dict[str, Any], name: str) -> str:
    found = value.get(name)
    if found is None:
        return ""
    if not isinstance(found, str):
        raise ValueError(f"{name} is not a string")
    return found

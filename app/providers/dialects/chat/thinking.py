"""Reasoning in messages, to and from the neutral form.

Chat completions have no field for it. Vendors write `reasoning_content` (DeepSeek, vLLM and others), `reasoning` with
`reasoning_details` (OpenRouter), or `thinking_blocks` (LiteLLM); some need it back in the next turn. Towards callers,
ours stands in `thinking_blocks`, with the vendor's own data as a carrier in place of the signature.
"""

from __future__ import annotations

from typing import Any

import msgspec

from app.domain.content import Block, Opaque, Thinking
from app.providers.dialects import carrier
from app.providers.dialects.fields import Fields

# The kinds of signature. The first two sign nothing: they tell who wrote the text, and in which field.
PLAIN_FIELDS = ("reasoning_content", "reasoning")
DETAILS = "reasoning_details"
SIGNATURE = "signature"
REDACTED = "redacted_thinking"


def take_thinking(message: Fields) -> list[tuple[int, Thinking]]:
    """Returns a caller's reasoning, each with its position among the blocks of the message.

    A signature that is no carrier is the caller's own: it stays out, noted as a hint.
    """
    plain = [text for name in PLAIN_FIELDS if (text := message.take(name, str))]
    blocks = [_take_block(fields) for fields in message.objects("thinking_blocks")]
    message.hint(DETAILS)
    if blocks or not plain:
        return blocks
    return [(0, Thinking(text=plain[0]))]


def _take_block(fields: Fields) -> tuple[int, Thinking]:
    field = "data" if fields.text("type") == "redacted_thinking" else "signature"
    blob = fields.text(field)
    signature = carrier.unpack(blob)
    if blob and signature is None:
        fields.notes.hints[fields.at(field)] = blob
    thinking = Thinking(text=fields.text("thinking"), signature=signature)
    position = fields.take("position", int) or 0
    fields.any("index")
    fields.rest_is_hint()
    return position, thinking


def encode_block(thinking: Thinking, position: int | None = None) -> dict[str, Any]:
    """Returns a block of `thinking_blocks` for a caller. `position` is None where it stands before all the rest."""
    where = {} if position is None else {"position": position}
    if thinking.signature is None:
        return {"type": "thinking", "thinking": thinking.text, **where}
    packed = carrier.pack(thinking.signature)
    if not thinking.text and thinking.signature.kind == REDACTED:
        return {"type": "redacted_thinking", "data": packed, **where}
    return {"type": "thinking", "thinking": thinking.text, "signature": packed, **where}


def open_block(block: object) -> Thinking | None:
    """Returns what a block of `thinking_blocks` stands for that we wrote for a caller; None for any other."""
    if not isinstance(block, dict):
        return None
    signature = carrier.unpack(block.get("signature")) or carrier.unpack(block.get("data"))
    text = block.get("thinking")
    return Thinking(text=text if isinstance(text, str) else "", signature=signature) if signature else None


def replay(thinking: list[Thinking], origin: str) -> dict[str, Any]:
    """Returns the fields in which a vendor gets its own reasoning back; none for another's."""
    fields: dict[str, Any] = {}
    for block in thinking:
        signature = block.signature
        if signature is None or signature.origin != origin:
            continue
        if signature.kind in PLAIN_FIELDS:
            fields[signature.kind] = fields.get(signature.kind, "") + block.text
        elif signature.kind == DETAILS:
            fields["reasoning"] = fields.get("reasoning", "") + block.text
            fields[DETAILS] = fields.get(DETAILS, []) + msgspec.json.decode(signature.data)
        elif signature.kind == SIGNATURE:
            native = {"type": "thinking", "thinking": block.text, "signature": signature.data}
            fields.setdefault("thinking_blocks", []).append(native)
        elif signature.kind == REDACTED:
            fields.setdefault("thinking_blocks", []).append({"type": "redacted_thinking", "data": signature.data})
    return fields


def decode_thinking(message: dict[str, Any], origin: str) -> list[Block]:
    """Returns the reasoning in a vendor's whole answer."""
    field, text = reasoning_text(message)
    details = message.get(DETAILS)
    if isinstance(details, list) and details:
        return [Thinking(text=text, signature=details_signature(origin, details))]
    native = message.get("thinking_blocks")
    if isinstance(native, list) and native:
        return [_native_block(block, origin) for block in native if isinstance(block, dict)]
    return [Thinking(text=text, signature=Opaque(origin, field, ""))] if text else []


def reasoning_text(message: dict[str, Any]) -> tuple[str, str]:
    """Returns the field that has the reasoning, and its text; "" if there is none."""
    for field in PLAIN_FIELDS:
        text = message.get(field)
        if isinstance(text, str) and text:
            return field, text
    return PLAIN_FIELDS[0], ""


def details_signature(origin: str, details: list[Any]) -> Opaque:
    """Returns the signature that brings OpenRouter's details back as they came."""
    return Opaque(origin, DETAILS, msgspec.json.encode(details).decode())


def native_signature(block: dict[str, Any], origin: str) -> Opaque | None:
    """Returns the signature of a vendor's own block of `thinking_blocks`."""
    if block.get("type") == "redacted_thinking":
        return Opaque(origin, REDACTED, str(block.get("data") or ""))
    signature = block.get("signature")
    return Opaque(origin, SIGNATURE, signature) if isinstance(signature, str) and signature else None


def _native_block(block: dict[str, Any], origin: str) -> Thinking:
    text = block.get("thinking")
    return Thinking(text=text if isinstance(text, str) else "", signature=native_signature(block, origin))

"""Carriers in the history of a call that passes untouched: an earlier turn was another vendor's, or translated.

A vendor gets its own data back as it wrote it, and nothing of what stood in for another's.
"""

from __future__ import annotations

from typing import Any

import msgspec

from app.domain.body import decode_body, encode
from app.domain.content import Thinking
from app.providers.dialects import carrier
from app.providers.dialects.chat.history import THOUGHT_SIGNATURE
from app.providers.dialects.chat.thinking import PLAIN_FIELDS, open_block, replay

MARK = carrier.PREFIX.encode()
_MESSAGES = msgspec.json.Decoder(list[dict[str, Any]])


def open_carriers(messages: bytes, origin: str) -> msgspec.Raw:
    """Returns the messages with each carrier opened for the provider `origin`, or left out. Raises `InvalidRequest`."""
    opened = decode_body(_MESSAGES, messages)
    for message in opened:
        thinking = _take_thinking(message)
        calls = message.get("tool_calls")
        signed = [_open_call(call, origin) for call in calls] if isinstance(calls, list) else []
        if thinking or any(signed):
            # All reasoning in the message was then written by us.
            for field in (*PLAIN_FIELDS, "thinking_blocks"):
                message.pop(field, None)
            message.update(replay(thinking, origin))
    return msgspec.Raw(encode(opened))


def _take_thinking(message: dict[str, Any]) -> list[Thinking]:
    blocks = message.get("thinking_blocks")
    found = map(open_block, blocks) if isinstance(blocks, list) else ()
    return [thinking for thinking in found if thinking is not None]


def _open_call(call: Any, origin: str) -> bool:
    """Opens a call's signature, and returns True if there was a carrier."""
    extra = call.get("extra_content") if isinstance(call, dict) else None
    google = extra.get("google") if isinstance(extra, dict) else None
    signature = carrier.unpack(google.get(THOUGHT_SIGNATURE)) if isinstance(google, dict) else None
    if signature is None:
        return False
    del call["extra_content"]
    if signature.origin == origin and signature.kind == THOUGHT_SIGNATURE:
        call["extra_content"] = {"google": {THOUGHT_SIGNATURE: signature.data}}
    return True

"""A caller's stream, written from events of the neutral form."""

from __future__ import annotations

from typing import Any

import msgspec

from app.domain.content import (
    Audio,
    Block,
    BlockEnded,
    BlockStarted,
    Cited,
    Delta,
    Event,
    Image,
    Refusal,
    ServerTool,
    Signed,
    Started,
    Stopped,
    Text,
    Thinking,
    ToolCall,
)
from app.providers.dialects.dialect import Framing
from app.providers.dialects.messages import stops
from app.providers.dialects.messages.answer import UNWRITABLE, message_head
from app.providers.dialects.messages.blocks_out import own_citations
from app.providers.dialects.messages.carriers import UNSIGNED, pack_call, pack_thinking
from app.providers.dialects.messages.request_out import RULE
from app.providers.dialects.messages.usage import write_delta_usage, write_usage
from app.providers.dialects.tool_ids import AnswerIds

_encode = msgspec.json.Encoder().encode
ENDING = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
# The most frequent event by far.
_TEXT_PIECE = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,'
    b'"delta":{"type":"text_delta","text":%b}}\n\n'
)
HEARTBEAT = b'event: ping\ndata: {"type": "ping"}\n\n'


class StreamEncoder:
    """See `dialect.StreamEncoder`. Blocks are numbered anew: some events' blocks have no place in this dialect.

    Thinking without a text is written when another block follows it: clients take the last block for the answer.
    """

    def __init__(self, framing: Framing) -> None:
        self._framing = framing
        self._ids = AnswerIds(RULE, framing.call_id)
        self._index = 0
        self._block: Block | None = None  # the open one, if it is written
        self._call_id = ""
        self._late_signature = ""  # of the open call
        self._refusal: list[str] | None = None
        self._signature = ""  # of the open thinking
        self._thinks = False  # the open thinking is written: it has a text
        self._held: list[str] = []  # signatures of thinking without a text
        self._calls = False

    def encode(self, event: Event) -> bytes:
        if isinstance(event, Delta):
            return self._delta(event.text)
        if isinstance(event, BlockStarted):
            return self._start(event.block)
        if isinstance(event, BlockEnded):
            return self._end()
        if isinstance(event, Signed):
            self._sign(event)
            return b""
        if isinstance(event, Cited):
            citations = own_citations([event.citation])
            if not citations or not isinstance(self._block, Text):
                return b""
            return self._piece({"type": "citations_delta", "citation": citations[0]})
        if isinstance(event, Started):
            return self._message_start(event)
        return self._message_delta(event)

    def ending(self) -> bytes:
        return ENDING

    def _message_start(self, event: Started) -> bytes:
        message = {
            **message_head(event.id, event.model or self._framing.prompt.model, self._framing),
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": write_usage(event.usage),
        }
        return _event("message_start", {"type": "message_start", "message": message})

    def _message_delta(self, event: Stopped) -> bytes:
        refusal = None if self._refusal is None else "".join(self._refusal)
        reason = stops.write_stop(event.stop, calls=self._calls, refusal=refusal)
        delta: dict[str, Any] = {"stop_reason": reason, "stop_sequence": event.stop_sequence}
        details = stops.write_details(reason, refusal)
        if details is not None:
            delta["stop_details"] = details
        fields = {"type": "message_delta", "delta": delta, "usage": write_delta_usage(event.usage)}
        return _event("message_delta", fields)

    def _start(self, block: Block) -> bytes:
        self._block = block
        if isinstance(block, Text):
            cited = b"".join(
                self._piece({"type": "citations_delta", "citation": each}) for each in own_citations(block.citations)
            )
            return self._open({"type": "text", "text": ""}) + self._delta(block.text) + cited
        if isinstance(block, Refusal):
            self._refusal = [] if self._refusal is None else self._refusal
            return self._open({"type": "text", "text": ""}) + self._delta(block.text)
        if isinstance(block, Thinking):
            self._thinks, self._signature = False, "" if block.signature is None else pack_thinking(block.signature)
            return self._delta(block.text)
        if isinstance(block, ToolCall):
            return self._start_call(block)
        if isinstance(block, ServerTool) and block.dialect == "messages":
            return self._open(block.value)
        if isinstance(block, Audio | Image):
            transcript = block.transcript if isinstance(block, Audio) else ""
            return self._open({"type": "text", "text": ""}) + self._text_piece(transcript or UNWRITABLE)
        self._block = None
        return b""

    def _start_call(self, block: ToolCall) -> bytes:
        self._calls = True
        self._call_id = self._ids.next(block.id)
        if block.signature is not None:
            self._held.append(pack_call(block.signature, self._call_id))
        start = self._open({"type": "tool_use", "id": self._call_id, "name": block.name, "input": {}})
        wrapping = self._json_piece('{"input":"') if block.custom else b""
        return start + wrapping + self._delta(block.arguments)

    def _delta(self, text: str) -> bytes:
        block = self._block
        if not text or block is None:
            return b""
        if isinstance(block, ToolCall):
            return self._json_piece(_encode(text)[1:-1].decode() if block.custom else text)
        if isinstance(block, Thinking):
            start = b"" if self._thinks else self._open({"type": "thinking", "thinking": "", "signature": ""})
            self._thinks = True
            return start + self._piece({"type": "thinking_delta", "thinking": text})
        if isinstance(block, Refusal) and self._refusal is not None:
            self._refusal.append(text)
        return self._text_piece(text) if isinstance(block, Text | Refusal) else b""

    def _sign(self, event: Signed) -> None:
        if isinstance(self._block, Thinking):
            self._signature = pack_thinking(event.signature)
        elif isinstance(self._block, ToolCall):
            # It should stand in a block before the call, which has begun by now.
            self._late_signature = pack_call(event.signature, self._call_id)

    def _end(self) -> bytes:
        block, self._block = self._block, None
        if isinstance(block, Thinking):
            return self._end_thinking()
        if block is None:
            return b""
        written = self._json_piece('"}') if isinstance(block, ToolCall) and block.custom else b""
        written += self._close()
        if self._late_signature:
            written += self._signature_block(self._late_signature)
            self._late_signature = ""
        return written

    def _end_thinking(self) -> bytes:
        if self._thinks:
            return self._signature_piece(self._signature or UNSIGNED) + self._close()
        if self._signature:
            self._held.append(self._signature)
        return b""

    def _signature_block(self, signature: str) -> bytes:
        """Returns a thinking block that has nothing but a signature."""
        start = self._open({"type": "thinking", "thinking": "", "signature": ""})
        return start + self._signature_piece(signature) + self._close()

    def _signature_piece(self, signature: str) -> bytes:
        return self._piece({"type": "signature_delta", "signature": signature})

    def _text_piece(self, text: str) -> bytes:
        return _TEXT_PIECE % (self._index, _encode(text))

    def _json_piece(self, text: str) -> bytes:
        return self._piece({"type": "input_json_delta", "partial_json": text})

    def _open(self, content_block: dict[str, Any]) -> bytes:
        """Returns the beginning of a block, behind the thinking that was held back."""
        held, self._held = self._held, []
        before = b"".join(map(self._signature_block, held))
        fields = {"type": "content_block_start", "index": self._index, "content_block": content_block}
        return before + _event("content_block_start", fields)

    def _piece(self, delta: dict[str, Any]) -> bytes:
        return _event("content_block_delta", {"type": "content_block_delta", "index": self._index, "delta": delta})

    def _close(self) -> bytes:
        index, self._index = self._index, self._index + 1
        return _event("content_block_stop", {"type": "content_block_stop", "index": index})


def _event(name: str, fields: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), _encode(fields))

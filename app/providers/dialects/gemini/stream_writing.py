"""Streams for Gemini's callers, written from events: `data:` objects alone, the last of which has the finish reason."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec.structs import replace

from app.domain.content import (
    BlockEnded,
    BlockStarted,
    Delta,
    Event,
    Opaque,
    Refusal,
    Signed,
    Started,
    Stopped,
    Text,
    Thinking,
    ToolCall,
)
from app.domain.usage import Usage
from app.providers.dialects.dialect import Framing
from app.providers.dialects.gemini import signatures
from app.providers.dialects.gemini.answers import write_block, write_call, write_finish
from app.providers.dialects.gemini.logprobs import write_logprobs
from app.providers.dialects.gemini.usage import write_usage
from app.providers.dialects.tool_ids import AnswerIds, IdRule

_encode = msgspec.json.Encoder().encode


class GeminiStreamEncoder:
    """Writes a caller's stream. See `dialect.StreamEncoder`.

    A call is written when it is whole: the clients of Google's own API know no calls in parts.
    """

    def __init__(self, framing: Framing) -> None:
        self._framing = framing
        self._ids = AnswerIds(IdRule(), framing.call_id)
        self._after = b"}\n\n"  # what each chunk repeats: version and id
        self._usage: Usage | None = None
        self._block: Any = None
        self._pieces: list[str] = []
        self._signature: Opaque | None = None
        self._thinking: list[Thinking] = []
        self._broken = False
        self._ending = b""

    def encode(self, event: Event) -> bytes:
        """Returns the chunks that `event` stands for; b"" for none."""
        if isinstance(event, Delta):
            return self._delta(event)
        if isinstance(event, BlockStarted):
            return self._start(event)
        if isinstance(event, BlockEnded):
            return self._end_block()
        if isinstance(event, Signed):
            self._signature = event.signature
        elif isinstance(event, Started):
            self._usage = event.usage
            rest = {"modelVersion": event.model, "responseId": event.id or self._framing.call_id}
            self._after = b"," + _encode(rest)[1:] + b"\n\n"
        elif isinstance(event, Stopped):
            self._ending = self._last(event)
        return b""

    def ending(self) -> bytes:
        """Returns the last chunk, with the finish reason and the usage."""
        return self._ending

    def _start(self, event: BlockStarted) -> bytes:
        self._block, self._pieces = event.block, []
        self._signature = event.block.signature if isinstance(event.block, ToolCall | Thinking) else None
        if isinstance(event.block, ToolCall | Text | Thinking | Refusal):
            text = event.block.arguments if isinstance(event.block, ToolCall) else event.block.text
            return self._delta(Delta(index=event.index, text=text)) if text else b""
        part = write_block(event.block)
        return self._chunk({"content": {"parts": [part], "role": "model"}}) if part is not None else b""

    def _delta(self, event: Delta) -> bytes:
        block = self._block
        if isinstance(block, Text | Refusal):
            text = _encode(event.text)
            more = b""
            if event.logprobs:
                more = b',"logprobsResult":' + _encode(write_logprobs(event.logprobs))
            return (
                b'data: {"candidates":[{"content":{"parts":[{"text":%b}],"role":"model"},"index":0%b}]' % (text, more)
                + self._after
            )
        self._pieces.append(event.text)
        if isinstance(block, Thinking):
            return self._chunk({"content": {"parts": [{"text": event.text, "thought": True}], "role": "model"}})
        return b""

    def _end_block(self) -> bytes:
        block, self._block = self._block, None
        text, self._pieces = "".join(self._pieces), []
        if isinstance(block, ToolCall):
            call = replace(block, arguments=text, signature=self._signature)
            part = write_call(call, self._ids.next(block.id), self._thinking)
            if part is None:
                self._broken = True
                return b""
            self._thinking = []
            return self._chunk({"content": {"parts": [part], "role": "model"}})
        if isinstance(block, Thinking) and self._signature is not None:
            self._thinking.append(Thinking(text=text, signature=self._signature))
            part = {"text": "", "thought": True, "thoughtSignature": signatures.write(self._signature)}
            return self._chunk({"content": {"parts": [part], "role": "model"}})
        return b""

    def _last(self, event: Stopped) -> bytes:
        usage = event.usage or self._usage
        candidate = {
            "content": {"parts": [{"text": ""}], "role": "model"},
            **write_finish(event.stop, self._broken),
        }
        return self._chunk(candidate, {"usageMetadata": write_usage(usage)} if usage is not None else {})

    def _chunk(self, candidate: dict[str, Any], more: dict[str, Any] | None = None) -> bytes:
        body = {"candidates": [{**candidate, "index": 0}], **(more or {})}
        return b"data: " + _encode(body)[:-1] + self._after

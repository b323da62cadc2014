"""A vendor's stream, read into events of the neutral form."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from app.domain.content import (
    BlockEnded,
    BlockStarted,
    Cited,
    Delta,
    Event,
    Opaque,
    Refusal,
    ServerTool,
    Signed,
    Started,
    Stopped,
    Text,
    Thinking,
    ToolCall,
)
from app.providers.dialects.messages import stops
from app.providers.dialects.messages.answer import is_citation, read_answer_block
from app.providers.dialects.messages.errors import stream_error
from app.providers.dialects.messages.usage import merged, to_usage

_decode = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder().encode
_TEXT_FIELDS = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json"}


class StreamDecoder:
    """See `dialect.StreamDecoder`. A block of a kind that only this dialect has comes whole, at its end."""

    def __init__(self, origin: str) -> None:
        self.complete = False
        self._origin = origin
        self._usage: dict[str, Any] = {}
        self._reported = False
        self._index = 0
        self._open: ToolCall | Text | Thinking | ServerTool | None = None
        self._pieces: list[str] = []  # of the open block, where its text is needed at its end
        self._last_text = ""
        self._end: dict[str, Any] = {}

    def decode(self, name: str, payload: bytes) -> Iterable[Event]:
        event = _decode(payload)
        kind = event.get("type") or name
        if self.complete or kind == "ping":
            return ()
        if kind == "error":
            raise stream_error(payload)
        reader = _READERS.get(kind) if isinstance(kind, str) else None
        return () if reader is None else list(reader(self, event))

    def end(self) -> Iterable[Event]:
        return ()

    def _message_start(self, event: dict[str, Any]) -> Iterator[Event]:
        message = _object(event, "message")
        self._add_usage(message.get("usage"))
        usage = to_usage(self._usage) if self._reported else None
        yield Started(
            id=_text(message, "id"),
            model=_text(message, "model"),
            usage=usage,
            service_tier=usage.service_tier if usage else "",
        )

    def _block_start(self, event: dict[str, Any]) -> Iterator[Event]:
        yield from self._close()  # a vendor that does not say where blocks end
        value = _object(event, "content_block")
        if value.get("type") == "redacted_thinking":
            yield BlockStarted(index=self._index, block=read_answer_block(value, self._origin))
            self._open = Thinking()
            return
        block = read_answer_block(value, self._origin)
        if isinstance(block, ServerTool):
            self._open, self._pieces = block, []
        elif isinstance(block, ToolCall):
            self._open = block
            yield BlockStarted(index=self._index, block=msgspec.structs.replace(block, arguments=""))
            if block.arguments:  # whole at the beginning: some vendors send no pieces
                yield Delta(index=self._index, text=block.arguments)
        elif isinstance(block, Text):
            self._open, self._pieces = block, [block.text]
            yield BlockStarted(index=self._index, block=Text(text=""))
            if block.text:
                yield Delta(index=self._index, text=block.text)
            for citation in block.citations:
                yield Cited(index=self._index, citation=citation)
        elif isinstance(block, Thinking):
            self._open = block
            yield BlockStarted(index=self._index, block=Thinking(text=""))
            if block.text:
                yield Delta(index=self._index, text=block.text)
            if block.signature is not None:
                yield Signed(index=self._index, signature=block.signature)

    def _block_delta(self, event: dict[str, Any]) -> Iterator[Event]:
        if self._open is None:
            raise ValueError("a piece of no block")
        delta = _object(event, "delta")
        kind = delta.get("type")
        if kind == "signature_delta":
            signature = _text(delta, "signature")
            if signature and isinstance(self._open, Thinking):
                yield Signed(index=self._index, signature=Opaque(self._origin, "signature", signature))
        elif kind == "citations_delta":
            if isinstance(self._open, Text) and is_citation(delta.get("citation")):
                yield Cited(index=self._index, citation=delta.get("citation"))
        elif isinstance(kind, str) and kind in _TEXT_FIELDS:
            text = _text(delta, _TEXT_FIELDS[kind])
            if isinstance(self._open, Text | ServerTool):
                self._pieces.append(text)
            if text and not isinstance(self._open, ServerTool):
                yield Delta(index=self._index, text=text)

    def _block_stop(self, event: dict[str, Any]) -> Iterator[Event]:
        yield from self._close()

    def _message_delta(self, event: dict[str, Any]) -> Iterator[Event]:
        self._add_usage(event.get("usage"))
        self._end = {**self._end, **_object(event, "delta")}
        yield from ()

    def _message_stop(self, event: dict[str, Any]) -> Iterator[Event]:
        self.complete = True
        yield from self._close()
        reason = self._end.get("stop_reason")
        stop = stops.read_stop(reason)
        explanation = stops.read_explanation(self._end.get("stop_details")) if stop == "refusal" else ""
        if explanation and explanation != self._last_text:
            yield BlockStarted(index=self._index, block=Refusal(text=""))
            yield Delta(index=self._index, text=explanation)
            yield BlockEnded(index=self._index)
        sequence = self._end.get("stop_sequence")
        usage = to_usage(self._usage) if self._reported else None
        yield Stopped(
            stop=stop,
            native_stop=reason if isinstance(reason, str) else "",
            stop_sequence=sequence if isinstance(sequence, str) else None,
            usage=usage,
            service_tier=usage.service_tier if usage else "",
        )

    def _close(self) -> Iterator[Event]:
        """Ends the open block, if there is one."""
        block, self._open = self._open, None
        if block is None:
            return
        if isinstance(block, ServerTool):
            yield BlockStarted(index=self._index, block=_with_input(block, "".join(self._pieces)))
        elif isinstance(block, Text):
            self._last_text = "".join(self._pieces)
        yield BlockEnded(index=self._index)
        self._index += 1

    def _add_usage(self, usage: object) -> None:
        if isinstance(usage, dict):
            self._usage = merged(self._usage, usage)
            self._reported = True


def _with_input(block: ServerTool, arguments: str) -> ServerTool:
    """Returns the block with the input that came in pieces."""
    if not arguments:
        return block
    return ServerTool(dialect=block.dialect, value={**block.value, "input": _decode(arguments.encode())})


def _object(event: dict[str, Any], name: str) -> dict[str, Any]:
    found = event.get(name)
    if not isinstance(found, dict):
        raise ValueError(f"{name} is not an object")
    return found


def _text(value: dict[str, Any], name: str) -> str:
    found = value.get(name)
    if found is not None and not isinstance(found, str):
        raise ValueError(f"{name} is not a string")
    return found or ""


_READERS = {
    "message_start": StreamDecoder._message_start,
    "content_block_start": StreamDecoder._block_start,
    "content_block_delta": StreamDecoder._block_delta,
    "content_block_stop": StreamDecoder._block_stop,
    "message_delta": StreamDecoder._message_delta,
    "message_stop": StreamDecoder._message_stop,
}

"""Calls whose caller and vendor both speak this dialect: passed untouched, and read as far as accounting needs."""

from __future__ import annotations

from typing import Any

import msgspec

from app.domain.body import encode_fields
from app.domain.generation import GenerationRequest
from app.domain.usage import Usage
from app.providers.dialects import carrier
from app.providers.dialects.dialect import Outgoing, Reported
from app.providers.dialects.messages.errors import stream_error
from app.providers.dialects.messages.usage import merged, to_usage

_MARK = carrier.PREFIX.encode()
_messages = msgspec.json.Decoder(list[dict[str, Any]]).decode
_thinking = msgspec.json.Decoder(dict[str, Any]).decode
_loads = msgspec.json.Decoder().decode


class _Block(msgspec.Struct, frozen=True):
    type: str = ""
    text: str | None = None
    thinking: str | None = None
    input: msgspec.Raw = msgspec.Raw(b"")


class _Delta(msgspec.Struct, frozen=True):
    text: str | None = None
    thinking: str | None = None
    partial_json: str | None = None


class _Message(msgspec.Struct, frozen=True):
    usage: dict[str, Any] | None = None


class _Event(msgspec.Struct, frozen=True):
    type: str
    delta: _Delta | None = None
    content_block: _Block | None = None
    message: _Message | None = None
    usage: dict[str, Any] | None = None


class _Answer(msgspec.Struct, frozen=True):
    content: list[_Block]
    usage: dict[str, Any] | None = None


_decode_event = msgspec.json.Decoder(_Event).decode
_decode_answer = msgspec.json.Decoder(_Answer).decode


def pass_request(request: GenerationRequest, outgoing: Outgoing) -> bytes:
    """Returns the caller's body with the model, the bound, and other vendors' thinking taken out."""
    changes: dict[str, Any] = {}
    drop: tuple[str, ...] = ()
    if request.model != outgoing.model:
        changes["model"] = outgoing.model
    if outgoing.max_output_tokens is not None:
        changes["max_tokens"] = outgoing.max_output_tokens
    if _MARK in request.raw:
        kept, turn_is_unsigned = _without_carriers(bytes(request.fields["messages"]))
        changes["messages"] = kept
        if turn_is_unsigned and _is_manual(request.fields.get("thinking")):
            drop = ("thinking",)  # a turn that began without thinking must end without
            outgoing.leave_out("thinking")
    return encode_fields(request.fields, changes, drop)


def read_answer(body: bytes) -> Reported:
    """Returns what a whole answer cost. Raises `ValueError` for a body that is no answer."""
    answer = _decode_answer(body)
    if answer.usage is not None:
        return Reported(to_usage(answer.usage))
    size = sum(_bytes(block.text) + _bytes(block.thinking) + len(bytes(block.input)) for block in answer.content)
    return Reported(None, size)


class Watch:
    """See `dialect.Watch`."""

    def __init__(self, request: GenerationRequest) -> None:
        self.usage: Usage | None = None
        self.prompt_usage: Usage | None = None
        self.text_bytes = 0
        self.chunks = 0
        self.started = False
        self.complete = False
        self.ending = b""
        self._usage: dict[str, Any] = {}

    def see(self, name: str, payload: bytes) -> bool:
        if self.complete:
            return False
        if name == "error":
            raise stream_error(payload)
        event = _read_event(payload)
        kind = event.type
        if kind == "content_block_delta":
            self._count(event.delta)
        elif kind == "content_block_start":
            block = event.content_block
            # Text and thinking begin empty; a call has its name.
            self.started = self.started or (block is not None and (block.type not in ("text", "thinking")))
            if block is not None and (block.text or block.thinking):
                self._count(_Delta(block.text, block.thinking))
        elif kind == "message_start":
            usage = event.message.usage if event.message else None
            if usage is not None:
                self._usage = usage
                self.prompt_usage = to_usage(usage)
        elif kind == "message_delta":
            self.started = True
            if event.usage is not None:
                self._usage = merged(self._usage, event.usage)
                self.usage = to_usage(self._usage)
        elif kind == "message_stop":
            self.started = self.complete = True
            self.ending = b"event: message_stop\ndata: %b\n\n" % payload
            return False
        elif kind == "error":
            raise stream_error(payload)
        return True

    def end(self) -> None:
        """Nothing is known of a stream's end but by its last event."""

    def _count(self, delta: _Delta | None) -> None:
        if delta is None:
            return
        size = _bytes(delta.text) + _bytes(delta.thinking) + _bytes(delta.partial_json)
        if size:
            self.started = True
            self.chunks += 1
            self.text_bytes += size


def _read_event(payload: bytes) -> _Event:
    """Returns the event; of one whose fields are of odd types only its type. Raises `ValueError`."""
    try:
        return _decode_event(payload)
    except msgspec.ValidationError:
        found = _loads(payload)
    kind = found.get("type") if isinstance(found, dict) else None
    if not isinstance(kind, str):
        raise ValueError("no event of this dialect")
    usage = found.get("usage")
    return _Event(type=kind, usage=usage if isinstance(usage, dict) else None)


def _without_carriers(raw: bytes) -> tuple[list[dict[str, Any]], bool]:
    """Returns the messages without other vendors' thinking, and whether the last answer lost some."""
    kept, lost = [], False
    for message in _messages(raw):
        content = message.get("content")
        if message.get("role") == "assistant":
            lost = False
        if isinstance(content, list) and any(map(_is_foreign, content)):
            content = [block for block in content if not _is_foreign(block)]
            lost = message.get("role") == "assistant"
            if not content:
                continue
            message["content"] = content
        kept.append(message)
    return kept, lost


def _is_foreign(block: object) -> bool:
    if not isinstance(block, dict) or block.get("type") not in ("thinking", "redacted_thinking"):
        return False
    return carrier.unpack(block.get("signature")) is not None or carrier.unpack(block.get("data")) is not None


def _is_manual(thinking: msgspec.Raw | None) -> bool:
    try:
        return thinking is not None and _thinking(bytes(thinking)).get("type") == "enabled"
    except ValueError:
        return False


def _bytes(text: str | None) -> int:
    """Returns the text's length in UTF-8."""
    return 0 if not text else len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))

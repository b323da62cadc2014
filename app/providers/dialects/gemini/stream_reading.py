"""Streams of Gemini's vendors, read as events.

Each SSE event is a response with the next parts of its candidate. There is no terminal event: a stream is whole when a
finish reason came, or a blocked prompt's, and the body then ended.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from app.domain.content import (
    Block,
    BlockEnded,
    BlockStarted,
    Delta,
    Event,
    Opaque,
    Signed,
    Started,
    Stopped,
    Text,
    Thinking,
    ToolCall,
)
from app.providers.dialects.dialect import StreamReported
from app.providers.dialects.gemini import signatures
from app.providers.dialects.gemini.answers import read_args, read_other, read_time
from app.providers.dialects.gemini.arguments import PartialArgs
from app.providers.dialects.gemini.finish import failed, read_reason
from app.providers.dialects.gemini.logprobs import read_logprobs
from app.providers.dialects.gemini.running_usage import RunningUsage
from app.providers.dialects.gemini.wire import WireAnswer, WireCall, WirePart, decode_wire


class _Error(msgspec.Struct, frozen=True):
    code: object = None
    message: object = None


_decode_error = msgspec.json.Decoder(_Error).decode


def reported(error: msgspec.Raw, payload: bytes) -> StreamReported:
    """Returns the exception for the object `error` of an event."""
    try:
        found = _decode_error(error)
    except ValueError:
        found = _Error()
    code = found.code if isinstance(found.code, int) and 400 <= found.code <= 599 else 500
    message = found.message if isinstance(found.message, str) else "The provider reported an error."
    return StreamReported(message, status=code, payload=payload)


def has_error(wire: WireAnswer) -> bool:
    """Tells if the event is an error."""
    return bytes(wire.error) not in (b"", b"null")


class GeminiStreamDecoder:
    """Turns Gemini's events into neutral ones. See `dialect.StreamDecoder`."""

    def __init__(self, origin: str) -> None:
        self.complete = False
        self._origin = origin
        self._started = False
        self._index = -1
        self._open: type[Text] | type[Thinking] | None = None
        self._call: tuple[ToolCall, PartialArgs] | None = None
        self._has_calls = False
        self._reason = ""
        self._blocked = ""
        self._usage = RunningUsage()

    def decode(self, name: str, payload: bytes) -> Iterator[Event]:
        """Yields the events of a chunk. Raises `StreamReported`, and `ValueError` for what is no chunk."""
        wire = decode_wire(payload)
        if has_error(wire):
            raise reported(wire.error, payload)
        self._usage.see(wire)
        if not self._started:
            self._started = True
            usage = self._usage.read_prompt()
            yield Started(
                id=wire.response_id or "",
                model=wire.model_version or "",
                created=read_time(wire.create_time),
                usage=usage,
                service_tier=usage.service_tier if usage is not None else "",
            )
        self._blocked = wire.block_reason or self._blocked
        candidate = wire.first()
        if candidate is None:
            return
        logprobs = read_logprobs(candidate.logprobs_result)
        for part in candidate.content.parts or () if candidate.content is not None else ():
            yield from self._part(part, logprobs)
            logprobs = None if part.text else logprobs
        if candidate.finish_reason:
            if failed(candidate.finish_reason):
                raise StreamReported(f"The model's answer ended with {candidate.finish_reason}.", payload=payload)
            self._reason = candidate.finish_reason

    def end(self) -> Iterator[Event]:
        """Yields the events due at the end of the body: none, if it ended before the answer did."""
        if not self._reason and not self._blocked:
            return
        yield from self._close_call()
        yield from self._close()
        self.complete = True
        usage = self._usage.read()
        yield Stopped(
            stop=read_reason(self._reason, self._has_calls) if self._reason else "content_filter",
            native_stop=self._reason or self._blocked,
            usage=usage,
            service_tier=usage.service_tier if usage is not None else "",
        )

    def _part(self, part: WirePart, logprobs: list[Any] | None) -> Iterator[Event]:
        signature = Opaque(self._origin, signatures.KIND, part.thought_signature) if part.thought_signature else None
        if part.function_call is not None:
            yield from self._function_call(part.function_call, signature)
            return
        yield from self._close_call()
        if part.thought:
            if part.text or signature is not None:
                yield from self._text(Thinking(), part.text or "", None)
            if signature is not None:
                yield Signed(index=self._index, signature=signature)
                yield from self._close()
            return
        other = read_other(part)
        if other is not None:
            yield from self._whole(other)
        elif part.text:
            yield from self._text(Text(text=""), part.text, logprobs)
        if signature is not None:
            yield from self._whole(Thinking(), signature)

    def _text(self, empty: Text | Thinking, text: str, logprobs: list[Any] | None) -> Iterator[Event]:
        if self._open is not type(empty):
            yield from self._close()
            yield self._start(empty)
            self._open = type(empty)
        if text:
            yield Delta(index=self._index, text=text, logprobs=logprobs)

    def _function_call(self, call: WireCall, signature: Opaque | None) -> Iterator[Event]:
        if self._call is None:
            yield from self._close()
            block = ToolCall(id=call.id or "", name=call.name or "", signature=signature)
            self._has_calls = True
            yield self._start(block)
            if not call.will_continue and not call.partial_args:
                arguments = read_args(call)
                if arguments:
                    yield Delta(index=self._index, text=arguments)
                yield BlockEnded(index=self._index)
                return
            self._call = (block, PartialArgs())
        for part in call.partial_args or ():
            self._call[1].add(part)
        if not call.will_continue:
            yield from self._close_call()

    def _close_call(self) -> Iterator[Event]:
        """Ends a call whose arguments came in parts."""
        if self._call is not None:
            value = self._call[1].value
            self._call = None
            if value:
                yield Delta(index=self._index, text=msgspec.json.encode(value).decode())
            yield BlockEnded(index=self._index)

    def _whole(self, block: Block, signature: Opaque | None = None) -> Iterator[Event]:
        yield from self._close()
        yield self._start(block)
        if signature is not None:
            yield Signed(index=self._index, signature=signature)
        yield BlockEnded(index=self._index)

    def _start(self, block: Block) -> BlockStarted:
        self._index += 1
        return BlockStarted(index=self._index, block=block)

    def _close(self) -> Iterator[Event]:
        if self._open is not None:
            self._open = None
            yield BlockEnded(index=self._index)

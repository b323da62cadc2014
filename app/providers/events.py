"""An upstream's event stream, block by block: passed on untouched unless something in it must not be."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import msgspec

from app.domain.config import Timeouts
from app.domain.money import Usage
from app.errors import UpstreamError, UpstreamTimeout
from app.providers.transport import Exchange

_MAX_EVENT = 1024 * 1024


class _Details(msgspec.Struct):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class WireUsage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None


class _Function(msgspec.Struct):
    arguments: str | None = None


class _ToolCall(msgspec.Struct):
    function: _Function | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: WireUsage | None = None
    service_tier: str | None = None
    error: object = None


_chunk = msgspec.json.Decoder(_Chunk)


def usage_of(wire: WireUsage, service_tier: str | None = None) -> Usage:
    prompt, completion = wire.prompt_tokens_details, wire.completion_tokens_details
    return Usage(
        max(wire.prompt_tokens, 0),
        max(wire.completion_tokens or 0, 0),
        max((prompt and prompt.cached_tokens) or 0, 0),
        max((completion and completion.reasoning_tokens) or 0, 0),
        service_tier=service_tier or "",
    )


class OpenAIStream:
    """See `providers.base.AnswerStream`. A block is what one read brought, cut at its last whole event."""

    def __init__(
        self, exchange: Exchange, *, provider: str, include_usage: bool, heartbeat_s: float, timeouts: Timeouts
    ) -> None:
        self.usage: Usage | None = None
        self.text_bytes = 0
        self.chunks = 0
        self.complete = False
        self._exchange = exchange
        self._provider = provider
        self._include_usage = include_usage
        self._heartbeat_s = heartbeat_s
        self._timeouts = timeouts
        self._rest = b""
        self._service_tier: str | None = None
        self._first = b""
        self._error: UpstreamError | None = None  # found behind events that the client must still get

    def await_first(self) -> None:
        """Waits for the first chunk. Raises `UpstreamError`: nothing has been sent to the client yet."""
        while not self._first and not self.complete:
            self._first = self._whole_events(self._read(self._timeouts.first_byte_s, "timeout_first_byte"))

    def __iter__(self) -> Iterator[bytes]:
        if self._first:
            yield self._first
        while not self.complete:
            if self._error is not None:
                raise self._error
            data = yield from self._next_block()
            block = self._whole_events(data)
            if block:
                yield block
        self._exchange.finish_if_complete()

    def close(self) -> None:
        self._exchange.close()

    def _next_block(self) -> Generator[bytes, None, bytes]:
        """Reads on, yielding `b""` as a heartbeat whenever the provider was silent for that long."""
        silent_s = 0.0
        idle_s, heartbeat_s = self._timeouts.idle_s, self._heartbeat_s
        while True:
            wait_s = min(heartbeat_s, idle_s - silent_s)
            try:
                return self._read(wait_s, "timeout_idle")
            except UpstreamTimeout as exc:
                silent_s += wait_s
                if exc.kind == "timeout_total" or silent_s >= idle_s:
                    raise
                yield b""

    def _read(self, limit_s: float, kind: str) -> bytes:
        block = self._exchange.read(limit_s, kind)
        if not block:
            raise self._failed("broke off its answer", "cut")
        return block

    def _whole_events(self, data: bytes) -> bytes:
        """What of the stream so far can go to the client. Takes note of usage, text and the end."""
        if self._rest:
            data = self._rest + data
        if b"\r" in data:
            # A lone \r at the end may be half of a \r\n.
            held = data[-1:] if data.endswith(b"\r") else b""
            data = data[: len(data) - len(held)].replace(b"\r\n", b"\n")
        else:
            held = b""
        end = data.rfind(b"\n\n") + 2
        if end == 1:
            self._rest = data + held
            if len(self._rest) > _MAX_EVENT:
                raise self._failed("sent an event that is too long", "bad_body")
            return b""
        self._rest = data[end:] + held
        block = data[:end]
        events = block[:-2].split(b"\n\n")
        kept = []
        for event in events:
            try:
                if self._keeps(event):
                    kept.append(event)
            except UpstreamError as exc:
                if not kept:
                    raise
                self._error = exc
                break
        if len(kept) == len(events) and not self.complete:
            return block
        return b"".join(b"data: %b\n\n" % _data(event) for event in kept)

    def _keeps(self, event: bytes) -> bool:
        """Whether the client gets `event` as it is. False also turns the whole block into plain data events."""
        if self.complete:
            return False
        payload = event[6:] if event.startswith(b"data: ") and b"\n" not in event else _data(event)
        if not payload:
            return False
        if payload == b"[DONE]":
            self.complete = True
            return False
        try:
            chunk = _chunk.decode(payload)
        except msgspec.ValidationError:
            # An unusual shape that is the client's to understand: passed on, counted by its length.
            self.chunks += 1
            self.text_bytes += len(payload)
            return True
        except (ValueError, RecursionError):
            raise self._failed("sent no valid event", "stream_error") from None
        if chunk.error is not None:
            raise self._failed("reported an error in its answer", "stream_error")
        self._count(chunk)
        return chunk.choices != [] or chunk.usage is None or self._include_usage

    def _count(self, chunk: _Chunk) -> None:
        if chunk.service_tier is not None:
            self._service_tier = chunk.service_tier
        if chunk.usage is not None:
            self.usage = usage_of(chunk.usage, self._service_tier)
        for choice in chunk.choices or ():
            delta = choice.delta
            if delta is None:
                continue
            size = len(delta.content or "") + len(delta.reasoning_content or "") + len(delta.refusal or "")
            for call in delta.tool_calls or ():
                size += len((call.function and call.function.arguments) or "")
            if size:
                self.chunks += 1
                self.text_bytes += size

    def _failed(self, what: str, kind: str) -> UpstreamError:
        self._exchange.close()
        return UpstreamError(f"The provider {self._provider} {what}.", provider=self._provider, kind=kind)


def _data(event: bytes) -> bytes:
    """The payload of an event: its data lines, without the fields that some clients cannot parse."""
    lines = [line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines)

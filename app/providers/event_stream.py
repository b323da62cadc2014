"""Server-sent events of an upstream: passed on block by block, untouched unless an event must be left out."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterator

import msgspec

from app.config.gateway import Timeouts
from app.domain.usage import Usage
from app.errors import UpstreamError, UpstreamTimeout
from app.providers.http.exchange import Exchange
from app.providers.pacing import Pacing
from app.providers.reported_usage import WireUsage, to_usage

_MAX_EVENT_BYTES = 1024 * 1024
# When a stream is given up, so much of what had arrived is parsed; in the rest, chunks are merely counted.
_MAX_PARSED_BYTES = 256 * 1024


class _Function(msgspec.Struct, frozen=True):
    arguments: str | None = None


class _ToolCall(msgspec.Struct, frozen=True):
    function: _Function | None = None


class _Delta(msgspec.Struct, frozen=True):
    content: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct, frozen=True):
    delta: _Delta | None = None


class _Chunk(msgspec.Struct, frozen=True):
    choices: list[_Choice] | None = None
    usage: WireUsage | None = None
    service_tier: str | None = None
    error: object = None


_decode_chunk = msgspec.json.Decoder(_Chunk).decode


class OpenAIStream:
    """A stream in OpenAI's format. A block is what one read brought, up to its last complete event.

    See `providers.base.ProviderStream`.
    """

    def __init__(
        self,
        exchange: Exchange,
        *,
        provider: str,
        include_usage: bool,
        heartbeat_s: float,
        timeouts: Timeouts,
        pacing: Pacing,
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
        self._pacing = pacing
        self._partial_event = b""
        self._service_tier: str | None = None
        self._first_block = b""
        self._pending_error: UpstreamError | None = None  # behind events that the client must still get
        self._closed = False

    def wait_for_first_chunk(self) -> None:
        """Waits for the first chunk. Raises `UpstreamError`: nothing has been sent to the client yet."""
        while not self._first_block and not self.complete:
            self._first_block = self._complete_events(self._require_data(self._exchange.read_first()))

    def __iter__(self) -> Iterator[bytes]:
        self._pacing.add_stream()
        try:
            yield from self._blocks()
        finally:
            self._pacing.remove_stream()
            self.close()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            if not self.complete:
                self._count_unread()
            self._exchange.close()

    def _blocks(self) -> Iterator[bytes]:
        if self._first_block:
            yield self._first_block
        silent_since = time.monotonic()
        while not self.complete:
            if self._pending_error is not None:
                raise self._pending_error
            data = yield from self._next_block()
            block = self._complete_events(data)
            if block:
                yield block
                self._pacing.pause_if_lagging()
                silent_since = time.monotonic()
            elif time.monotonic() - silent_since >= self._heartbeat_s:
                # Only comments came, or parts of a long event: the client must not take that for silence.
                yield b""
                silent_since = time.monotonic()
        self._exchange.release_if_complete()

    def _next_block(self) -> Generator[bytes, None, bytes]:
        """Returns the next bytes, after a `b""` for each `heartbeat_s` of the provider's silence."""
        silent_s = 0.0
        idle_s, heartbeat_s = self._timeouts.idle_s, self._heartbeat_s
        while True:
            wait_s = min(heartbeat_s, idle_s - silent_s)
            try:
                return self._require_data(self._exchange.read(wait_s, "timeout_idle"))
            except UpstreamTimeout as exc:
                silent_s += wait_s
                if exc.kind == "timeout_total" or silent_s >= idle_s - 0.001:
                    raise
                yield b""

    def _require_data(self, block: bytes) -> bytes:
        """Returns `block`. Raises `UpstreamError` cut at the end of the body."""
        if not block:
            raise self._close_with_error("broke off its answer", "cut")
        return block

    def _complete_events(self, data: bytes) -> bytes:
        """Returns what of the stream so far can go to the client, and records usage, text and the end."""
        if self._partial_event:
            data = self._partial_event + data
        if b"\r" in data:
            # A lone \r at the end may be half of a \r\n.
            carriage_return = data[-1:] if data.endswith(b"\r") else b""
            data = data[: len(data) - len(carriage_return)].replace(b"\r\n", b"\n")
        else:
            carriage_return = b""
        end = data.rfind(b"\n\n") + 2
        if end == 1:
            self._partial_event = data + carriage_return
            if len(self._partial_event) > _MAX_EVENT_BYTES:
                raise self._close_with_error("sent an event that is too long", "bad_body")
            return b""
        self._partial_event = data[end:] + carriage_return
        block = data[:end]
        events = block[:-2].split(b"\n\n")
        kept: list[bytes] = []
        untouched = True
        for event in events:
            is_plain = event.startswith(b"data: ") and b"\n" not in event
            payload = event[6:] if is_plain else _payload(event)
            try:
                accepted = self._accept(payload)
            except UpstreamError as exc:
                if not kept:
                    raise
                self._pending_error = exc
                untouched = False
                break
            if accepted:
                kept.append(payload)
            untouched = untouched and accepted and is_plain
        return block if untouched else b"".join(b"data: %b\n\n" % payload for payload in kept)

    def _accept(self, payload: bytes) -> bool:
        """Records an event's payload, and returns True if the client gets it. Raises `UpstreamError`."""
        if self.complete or not payload:
            return False
        if payload == b"[DONE]":
            self.complete = True
            return False
        try:
            chunk = _decode_chunk(payload)
        except (ValueError, RecursionError):
            return self._accept_unusual(payload)
        if chunk.error is not None:
            raise self._reported_error()
        self._count(chunk)
        return bool(chunk.choices) or chunk.usage is None or self._include_usage

    def _accept_unusual(self, payload: bytes) -> bool:
        """Accepts JSON of another shape, or with half of a surrogate pair: it is counted by its length."""
        try:
            chunk = json.loads(payload)
        except (ValueError, RecursionError):
            chunk = None
        if not isinstance(chunk, dict):
            raise self._close_with_error("sent no valid event", "stream_error")
        if chunk.get("error") is not None:
            raise self._reported_error()
        self.chunks += 1
        self.text_bytes += len(payload)
        return True

    def _count(self, chunk: _Chunk) -> None:
        if chunk.service_tier is not None:
            self._service_tier = chunk.service_tier
        if chunk.usage is not None:
            self.usage = to_usage(chunk.usage, self._service_tier)
        for choice in chunk.choices or ():
            delta = choice.delta
            if delta is None:
                continue
            size = _utf8_bytes(delta.content) + _utf8_bytes(delta.reasoning_content) + _utf8_bytes(delta.refusal)
            for call in delta.tool_calls or ():
                size += _utf8_bytes(call.function.arguments if call.function else None)
            if size:
                self.chunks += 1
                self.text_bytes += size

    def _count_unread(self) -> None:
        """Counts what the provider had written when the stream was given up: it is billed, though nobody reads it."""
        unread = self._exchange.take_unread()
        try:
            self._complete_events(unread[:_MAX_PARSED_BYTES])
        except UpstreamError:
            pass
        self.chunks += unread.count(b"\ndata:", _MAX_PARSED_BYTES)

    def _close_with_error(self, what: str, kind: str, *, billable: bool = True) -> UpstreamError:
        """Closes the upstream call, and returns the error to raise."""
        self._exchange.close()
        return UpstreamError(
            f"The provider {self._provider} {what}.", provider=self._provider, kind=kind, billable=billable
        )

    def _reported_error(self) -> UpstreamError:
        """Returns the error for an error event. Before any text nobody bills it."""
        return self._close_with_error("reported an error in its answer", "stream_error", billable=self.chunks > 0)


def _utf8_bytes(text: str | None) -> int:
    """Returns the text's length in UTF-8."""
    return 0 if not text else len(text) if text.isascii() else len(text.encode())


def _payload(event: bytes) -> bytes:
    """Returns the payload of an event: its data lines, without the fields that some clients cannot parse.

    A line break between them can only be JSON's white space, so that one line says the same.
    """
    lines = [line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:")]
    return b" ".join(lines)

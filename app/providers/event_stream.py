"""An upstream's event stream, block by block: passed on untouched unless something in it must not be."""

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
from app.providers.reported_usage import WireUsage, usage_of

_MAX_EVENT = 1024 * 1024
_MAX_COUNTED = 256 * 1024  # of what had arrived when a stream was given up: read event by event; the rest is counted


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


class OpenAIStream:
    """See `providers.base.ProviderStream`. A block is what one read brought, cut at its last whole event."""

    def __init__(
        self,
        exchange: Exchange,
        *,
        provider: str,
        include_usage: bool,
        heartbeat_s: float,
        timeouts: Timeouts,
        pace: Pacing,
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
        self._pace = pace
        self._rest = b""
        self._service_tier: str | None = None
        self._first = b""
        self._error: UpstreamError | None = None  # found behind events that the client must still get
        self._closed = False

    def await_first(self) -> None:
        """Waits for the first chunk. Raises `UpstreamError`: nothing has been sent to the client yet."""
        while not self._first and not self.complete:
            self._first = self._whole_events(self._some(self._exchange.read_first()))

    def __iter__(self) -> Iterator[bytes]:
        self._pace.begin()
        try:
            yield from self._blocks()
        finally:
            self._pace.end()
            self.close()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            if not self.complete:
                self._count_arrived()
            self._exchange.close()

    def _blocks(self) -> Iterator[bytes]:
        if self._first:
            yield self._first
        silent_since = time.monotonic()
        while not self.complete:
            if self._error is not None:
                raise self._error
            data = yield from self._next_block()
            block = self._whole_events(data)
            if block:
                yield block
                self._pace.breathe()
                silent_since = time.monotonic()
            elif time.monotonic() - silent_since >= self._heartbeat_s:
                # Only comments came, or parts of a long event: the client must not take that for silence.
                yield b""
                silent_since = time.monotonic()
        self._exchange.finish_if_complete()

    def _next_block(self) -> Generator[bytes, None, bytes]:
        """Reads on, yielding `b""` as a heartbeat whenever the provider was silent for that long."""
        silent_s = 0.0
        idle_s, heartbeat_s = self._timeouts.idle_s, self._heartbeat_s
        while True:
            wait_s = min(heartbeat_s, idle_s - silent_s)
            try:
                return self._some(self._exchange.read(wait_s, "timeout_idle"))
            except UpstreamTimeout as exc:
                silent_s += wait_s
                if exc.kind == "timeout_total" or silent_s >= idle_s - 0.001:
                    raise
                yield b""

    def _some(self, block: bytes) -> bytes:
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
        kept: list[bytes] = []
        untouched = True
        for event in events:
            plain = event.startswith(b"data: ") and b"\n" not in event
            payload = event[6:] if plain else _data(event)
            try:
                keeps = self._keeps(payload)
            except UpstreamError as exc:
                if not kept:
                    raise
                self._error = exc
                untouched = False
                break
            if keeps:
                kept.append(payload)
            untouched = untouched and keeps and plain
        return block if untouched else b"".join(b"data: %b\n\n" % payload for payload in kept)

    def _keeps(self, payload: bytes) -> bool:
        """Whether the client gets the event with this payload. Raises `UpstreamError` when the answer ends with it."""
        if self.complete or not payload:
            return False
        if payload == b"[DONE]":
            self.complete = True
            return False
        try:
            chunk = _chunk.decode(payload)
        except (ValueError, RecursionError):
            return self._keeps_unusual(payload)
        if chunk.error is not None:
            raise self._reported()
        self._count(chunk)
        return bool(chunk.choices) or chunk.usage is None or self._include_usage

    def _keeps_unusual(self, payload: bytes) -> bool:
        """JSON of another shape, or with half of a surrogate pair, is the client's to understand: counted by length."""
        try:
            chunk = json.loads(payload)
        except (ValueError, RecursionError):
            chunk = None
        if not isinstance(chunk, dict):
            raise self._failed("sent no valid event", "stream_error")
        if chunk.get("error") is not None:
            raise self._reported()
        self.chunks += 1
        self.text_bytes += len(payload)
        return True

    def _count(self, chunk: _Chunk) -> None:
        if chunk.service_tier is not None:
            self._service_tier = chunk.service_tier
        if chunk.usage is not None:
            self.usage = usage_of(chunk.usage, self._service_tier)
        for choice in chunk.choices or ():
            delta = choice.delta
            if delta is None:
                continue
            size = _size(delta.content) + _size(delta.reasoning_content) + _size(delta.refusal)
            for call in delta.tool_calls or ():
                size += _size(call.function.arguments if call.function else None)
            if size:
                self.chunks += 1
                self.text_bytes += size

    def _count_arrived(self) -> None:
        """Counts what the provider had written when the stream was given up, though nobody will read it."""
        rest = self._exchange.take_arrived()
        try:
            self._whole_events(rest[:_MAX_COUNTED])
        except UpstreamError:
            pass
        self.chunks += rest.count(b"\ndata:", _MAX_COUNTED)

    def _failed(self, what: str, kind: str, *, billable: bool = True) -> UpstreamError:
        self._exchange.close()
        return UpstreamError(
            f"The provider {self._provider} {what}.", provider=self._provider, kind=kind, billable=billable
        )

    def _reported(self) -> UpstreamError:
        """An error event. Before any text it is a refusal."""
        return self._failed("reported an error in its answer", "stream_error", billable=self.chunks > 0)


def _size(text: str | None) -> int:
    """UTF-8 length."""
    return 0 if not text else len(text) if text.isascii() else len(text.encode())


def _data(event: bytes) -> bytes:
    """The payload of an event: its data lines, without the fields that some clients cannot parse.

    A line break between them can only be JSON's white space, so that one line says the same.
    """
    lines = [line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:")]
    return b" ".join(lines)

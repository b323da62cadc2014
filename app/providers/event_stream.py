"""Server-sent events of an upstream: read block by block, watched for silence and for their end, and handed on."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator

from app.config.providers import Timeouts
from app.domain.usage import Usage
from app.errors import UpstreamError, UpstreamOverflow, UpstreamTimeout
from app.providers.dialects.dialect import MALFORMED, StreamReported
from app.providers.http.exchange import Exchange
from app.providers.overflow import find_overflow
from app.providers.pacing import Pacing
from app.providers.stream_events import PassedEvents, TranslatedEvents
from app.providers.upstream_errors import log_stumble, without_secrets

# `response.completed` repeats the tools and the whole answer.
_MAX_EVENT_BYTES = 4 * 1024 * 1024
# When a stream is given up, so much of what had arrived is parsed; in the rest, chunks are merely counted.
_MAX_PARSED_BYTES = 256 * 1024
# The client waits for the first real content at most so long, and so much is held back: from then on an error of the
# vendor's can only be told in the stream.
_MAX_PEEKED_BYTES = 256 * 1024
_MAX_PEEK_S = 5.0


class EventStream:
    """A stream of an upstream that speaks `dialect`. A block is what one read brought, up to its last complete event.

    See `providers.base.ProviderStream`.
    """

    def __init__(
        self,
        exchange: Exchange,
        *,
        provider: str,
        dialect: str,
        events: PassedEvents | TranslatedEvents,
        heartbeat_s: float,
        timeouts: Timeouts,
        pacing: Pacing,
        dropped: tuple[str, ...] = (),
    ) -> None:
        self.dropped = dropped
        self.heartbeat = events.heartbeat
        self.error_event = events.error_event
        self._exchange = exchange
        self._provider = provider
        self._dialect = dialect
        self._events = events
        self._heartbeat_s = heartbeat_s
        self._timeouts = timeouts
        self._pacing = pacing
        self._partial_event = b""
        self._first_block = b""
        self._pending_error: UpstreamError | None = None  # behind events that the client must still get
        self._unread_chunks = 0
        self._closed = False

    @property
    def usage(self) -> Usage | None:
        return self._events.usage

    @property
    def prompt_usage(self) -> Usage | None:
        return self._events.prompt_usage

    @property
    def text_bytes(self) -> int:
        return self._events.text_bytes

    @property
    def chunks(self) -> int:
        return self._events.chunks + self._unread_chunks

    @property
    def complete(self) -> bool:
        return self._events.complete

    @property
    def ending(self) -> bytes:
        return self._events.ending

    def wait_for_first_chunk(self) -> None:
        """Waits for the first real content. Raises `UpstreamError`: nothing has been sent to the client yet.

        Events before it that vendors send at once (a role, an empty message) are held back, within bounds.
        """
        first_at: float | None = None
        held: list[bytes] = []
        size = 0
        while not (self._events.started or self.complete):
            if first_at is None:
                data = self._exchange.read_first()
            else:
                left_s = first_at + _MAX_PEEK_S - time.monotonic()
                if left_s <= 0 or size > _MAX_PEEKED_BYTES:
                    break
                try:
                    data = self._exchange.read(left_s, "timeout_first_byte")
                except UpstreamTimeout as exc:
                    if exc.kind == "timeout_total":
                        raise
                    break
            block = self._take(data)
            if self._events.failure is not None and not self._events.started:
                raise self._failure()
            if block:
                first_at = first_at or time.monotonic()
                held.append(block)
                size += len(block)
        self._pending_error = self._failure() if self._events.failure is not None else None
        self._first_block = b"".join(held)

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
            block = self._take((yield from self._next_data()))
            if self._events.failure is not None:
                self._pending_error = self._failure()
            if block:
                yield block
                self._pacing.pause_if_lagging()
                silent_since = time.monotonic()
            elif time.monotonic() - silent_since >= self._heartbeat_s:
                # Only comments came, or parts of a long event: the client must not take that for silence.
                yield b""
                silent_since = time.monotonic()
        self._exchange.release_if_complete()

    def _next_data(self) -> Generator[bytes, None, bytes]:
        """Returns the next bytes, after a `b""` for each `heartbeat_s` of the provider's silence."""
        silent_s = 0.0
        idle_s, heartbeat_s = self._timeouts.idle_s, self._heartbeat_s
        while True:
            wait_s = min(heartbeat_s, idle_s - silent_s)
            try:
                return self._exchange.read(wait_s, "timeout_idle")
            except UpstreamTimeout as exc:
                silent_s += wait_s
                if exc.kind == "timeout_total" or silent_s >= idle_s - 0.001:
                    raise
                yield b""

    def _take(self, data: bytes) -> bytes:
        """Returns what of the stream so far can go to the client. Raises `UpstreamError` cut when the body has ended
        before the answer has."""
        if data:
            return self._complete_events(data)
        rest = self._complete_events(b"\n\n") if self._partial_event else b""
        if self._events.failure is not None:  # half an event
            self._events.failure = None
        else:
            try:
                rest += self._events.end() or b""
            except MALFORMED as exc:
                log_stumble(self._provider, exc)
        if not self.complete:
            raise self._close_with_error("broke off its answer", "cut")
        return rest

    def _complete_events(self, data: bytes) -> bytes:
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
        return self._events.take(block, block[:-2].split(b"\n\n"))

    def _count_unread(self) -> None:
        """Counts what the provider had written when the stream was given up: it is billed, though nobody reads it."""
        unread = self._exchange.take_unread()
        try:
            self._complete_events(unread[:_MAX_PARSED_BYTES])
        except UpstreamError:
            pass
        self._unread_chunks = unread.count(b"\ndata:", _MAX_PARSED_BYTES)

    def _failure(self) -> UpstreamError:
        """Closes the upstream call, and returns the error of its events. Before any text nobody bills it."""
        failure = self._events.failure
        if isinstance(failure, StreamReported):
            overflow = find_overflow(failure.message)
            error = self._close_with_error("reported an error in its answer", "stream_error", billable=self.chunks > 0)
            if overflow is not None:
                error = UpstreamOverflow(*overflow, provider=self._provider, upstream_status=failure.status)
            error.upstream_status = failure.status
            error.native, error.native_dialect = without_secrets(failure.payload), self._dialect
            return error
        if failure is not None:
            log_stumble(self._provider, failure)
        return self._close_with_error("sent no valid event", "stream_error")

    def _close_with_error(self, what: str, kind: str, *, billable: bool = True) -> UpstreamError:
        """Closes the upstream call, and returns the error to raise."""
        self._exchange.close()
        return UpstreamError(
            f"The provider {self._provider} {what}.", provider=self._provider, kind=kind, billable=billable
        )

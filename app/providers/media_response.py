"""Answers to media requests as they pass from a vendor to the client: whole, as events, or as sound while it is made.

Bytes are never changed. Of JSON and of events only the usage is read; a stream of sound says nothing of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing

import msgspec

from app.config.providers import Timeouts
from app.domain.media import MediaRequest
from app.domain.usage import Usage
from app.errors import GatewayError, UpstreamError, UpstreamTimeout
from app.net.error_body import error_body
from app.providers import media_usage
from app.providers.base import MediaResponse
from app.providers.http.exchange import Exchange

_MAX_BODY_BYTES = 64 * 1024 * 1024  # pictures, in base64
_MAX_EVENT_BYTES = 16 * 1024 * 1024
_MAX_CONTENT_TYPE_CHARS = 128
_EVENTS = "text/event-stream"
_EVENT_END = re.compile(rb"\r?\n\r?\n")


def media_response(
    exchange: Exchange, request: MediaRequest, *, provider: str, timeouts: Timeouts, heartbeat_s: float
) -> MediaResponse:
    """Returns the answer. Raises `UpstreamError` when it is none, or breaks off before its first bytes."""
    content_type = _printable(exchange.header("content-type"))
    kind = content_type.partition(";")[0].strip().lower()
    if kind == _EVENTS or kind.startswith("audio/") or kind == "application/octet-stream":
        stream = MediaStream(
            exchange,
            request,
            provider=provider,
            timeouts=timeouts,
            heartbeat_s=heartbeat_s,
            is_events=kind == _EVENTS,
        )
        try:
            stream.wait_for_first_bytes()
        except BaseException:
            exchange.close()
            raise
        return MediaResponse(content_type, stream)
    with closing(exchange):
        body = exchange.read_all(_MAX_BODY_BYTES)
    if kind.startswith("text/") and kind != "text/html":  # text, srt and vtt transcriptions have no usage
        return MediaResponse(content_type, body)
    try:
        return MediaResponse(content_type, body, media_usage.read(body, request).usage)
    except (ValueError, RecursionError):
        raise UpstreamError(
            f"The provider {provider} sent no valid answer.", provider=provider, kind="bad_body", billable=True
        ) from None


class MediaStream:
    """An answer that passes while it arrives. See `providers.base.ProviderStream`; sound has no heartbeat.

    Sound is complete when its body is. Events are when one of them says so: a body that ends before was cut.
    """

    prompt_usage = None
    dropped: tuple[str, ...] = ()
    text_bytes = 0
    chunks = 0
    ending = b""

    def __init__(
        self,
        exchange: Exchange,
        request: MediaRequest,
        *,
        provider: str,
        timeouts: Timeouts,
        heartbeat_s: float,
        is_events: bool,
    ) -> None:
        self.usage: Usage | None = None
        self.complete = False
        self.heartbeat = b": keep-alive\n\n" if is_events else b""
        self._exchange = exchange
        self._request = request
        self._provider = provider
        self._timeouts = timeouts
        self._heartbeat_s = heartbeat_s if is_events else timeouts.idle_s
        self._is_events = is_events
        self._first = b""
        self._held: list[bytes] = []  # the event that is under way
        self._held_bytes = 0
        self._has_begun = self._has_ended = False

    def wait_for_first_bytes(self) -> None:
        """Waits for the first event, or sound. Raises `UpstreamError`: nothing has been sent to the client yet."""
        data = self._exchange.read_first()
        while data and not (block := self._take(data)):
            data = self._exchange.read_first()
        if not data:
            self._finish()
        self._first = block

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield self._first
            silent_s = 0.0
            while True:
                wait_s = min(self._heartbeat_s, self._timeouts.idle_s - silent_s)
                try:
                    data = self._exchange.read(wait_s, "timeout_idle")
                except UpstreamTimeout as exc:
                    silent_s += wait_s
                    if exc.kind == "timeout_total" or silent_s >= self._timeouts.idle_s - 0.001:
                        raise
                    yield b""
                    continue
                if not data:
                    break
                silent_s = 0.0
                block = self._take(data)
                if block:
                    yield block
            self._finish()
        finally:
            self.close()

    def error_event(self, error: GatewayError, request_id: str) -> bytes:
        """Returns the event for an error; b"" among sound, which can only be cut off."""
        if not self._is_events:
            return b""
        return b"data: " + msgspec.json.encode(error_body(error, request_id)) + b"\n\n"

    def close(self) -> None:
        self._exchange.close()

    def _take(self, data: bytes) -> bytes:
        """Returns what of the answer so far can go to the client: whole events, or any sound."""
        self._has_begun = True
        if not self._is_events:
            return data
        # A picture is an event of megabytes: looking at all of it with each read would take seconds.
        seam = self._held[-1][-3:] if self._held else b""
        self._held.append(data)
        self._held_bytes += len(data)
        if _EVENT_END.search(seam + data) is None:
            if self._held_bytes > _MAX_EVENT_BYTES:
                raise self._error("sent an event that is too long", "bad_body")
            return b""
        whole = b"".join(self._held)
        end = max(whole.rfind(b"\n\n") + 2, whole.rfind(b"\r\n\r\n") + 4 if b"\r\n\r\n" in whole else 0)
        self._held, self._held_bytes = [whole[end:]], len(whole) - end
        for event in _EVENT_END.split(whole[:end]):
            self._watch_event(event)
        return whole[:end]

    def _watch_event(self, event: bytes) -> None:
        payload = b"\n".join(line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:"))
        if not payload:
            return
        if payload == b"[DONE]":
            self._has_ended = True
            return
        if b'"error"' in payload[:256] and _is_error(payload):
            raise self._error("reported an error in its answer", "stream_error")
        try:
            found = media_usage.read(payload, self._request)
        except (ValueError, RecursionError):
            raise self._error("sent no valid event", "stream_error") from None
        self._has_ended = self._has_ended or found.is_last
        if found.usage is not None:
            self.usage = found.usage if self.usage is None else _sum(self.usage, found.usage)

    def _finish(self) -> None:
        """Ends the stream where its body ends."""
        if not self._has_begun or (self._is_events and not self._has_ended):
            raise self._error("broke off its answer", "cut")
        self.complete = True

    def _error(self, what: str, kind: str) -> UpstreamError:
        self._exchange.close()
        return UpstreamError(
            f"The provider {self._provider} {what}.", provider=self._provider, kind=kind, billable=True
        )


def _sum(one: Usage, other: Usage) -> Usage:
    """Returns the usage of two pictures of one stream: each has an event of its own."""
    first, second = one.details, other.details
    details = first
    if first is not None and second is not None:
        details = type(first)(*(a + b for a, b in zip(first, second, strict=True)))
        details = details._replace(images=first.images, characters=first.characters)
    return one._replace(
        prompt_tokens=one.prompt_tokens + other.prompt_tokens,
        completion_tokens=one.completion_tokens + other.completion_tokens,
        cached_tokens=one.cached_tokens + other.cached_tokens,
        details=details,
    )


def _is_error(payload: bytes) -> bool:
    try:
        found = msgspec.json.decode(payload, type=dict[str, msgspec.Raw])
    except (ValueError, RecursionError):
        return False
    return bytes(found.get("error", b"null")) != b"null"


def _printable(content_type: str) -> str:
    kept = "".join(char for char in content_type[:_MAX_CONTENT_TYPE_CHARS] if char.isascii() and char.isprintable())
    return kept or "application/octet-stream"

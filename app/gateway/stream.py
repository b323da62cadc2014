"""Streams of a chat completion to the client, live or from the cache. Each is settled once, however it ends.

The call is settled before the client is told that the stream is complete: a client that sends its next call at
once finds its concurrency slot free. A stream that is closed before that was aborted.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from app.domain.usage import Status
from app.errors import ClientGone, GatewayError, UpstreamError
from app.gateway import chunks
from app.gateway.accounting import Accounting
from app.gateway.cache import Cache
from app.gateway.call import Report, RunningCall
from app.net.error_body import error_body
from app.providers.base import ProviderStream


class LiveStream:
    """Yields blocks of whole SSE events, and `b""` when a heartbeat is due. Raises `UpstreamError`, `ClientGone`."""

    def __init__(
        self,
        *,
        call: RunningCall,
        upstream: ProviderStream,
        accounting: Accounting,
        cache: Cache | None = None,
    ) -> None:
        """The answer goes into `cache`, if there is one."""
        self.report = accounting.report(call, None)
        self.heartbeat = upstream.heartbeat
        self.error_event = upstream.error_event
        self._call = call
        self._upstream = upstream
        self._accounting = accounting
        self._cache = cache
        self._room = cache.max_entry_bytes if cache else 0  # for blocks to keep: at most one cache entry's worth
        self._kept: list[bytes] = []

    def __iter__(self) -> Iterator[bytes]:
        try:
            for block in self._upstream:
                if self._room > 0:
                    self._keep(block)
                yield block
        except ClientGone:
            self._end("aborted", ClientGone.status)
            raise
        except GatewayError as exc:
            self._end("error", exc.status, exc)
            raise
        self._finish()

    @property
    def ending(self) -> bytes:
        """The last bytes for the client, when the iteration has ended: the dialect's terminal event."""
        return self._upstream.ending

    def close(self) -> None:
        """Ends what is left: the upstream call at once, and the row as aborted unless it is settled."""
        self._upstream.close()
        if not self._call.settled:
            if self._upstream.complete:
                self._finish()
            else:
                self._end("aborted", ClientGone.status)

    def _finish(self) -> None:
        upstream = self._upstream
        kept = chunks.to_completion(self._kept, upstream.usage) if self._kept and upstream.usage else None
        if self._kept and not kept:
            self._mark_uncacheable()
        self._accounting.completed(
            self._call,
            upstream.usage,
            text_bytes=upstream.text_bytes,
            chunks=upstream.chunks,
            keep=kept or b"",
            ttl_s=self._cache.ttl_s if self._cache else 0,
        )

    def _end(self, status: Status, http_status: int, error: GatewayError | None = None) -> None:
        upstream = self._upstream
        usage = upstream.usage
        if usage is None and not (isinstance(error, UpstreamError) and not error.billable):
            usage = self._accounting.estimate(self._call, upstream.text_bytes, upstream.chunks)
            known = upstream.prompt_usage
            if known is not None:
                usage = known._replace(
                    completion_tokens=max(usage.completion_tokens, known.completion_tokens), estimated=True
                )
        self._accounting.failed(self._call, status, http_status, error, usage=usage)

    def _keep(self, block: bytes) -> None:
        self._room -= len(block)
        if self._room > 0:
            self._kept.append(block)
        else:
            self._kept.clear()
            self._mark_uncacheable()

    def _mark_uncacheable(self) -> None:
        if self._cache:
            self._cache.mark_uncacheable(self._call.admitted)


class MediaReply(msgspec.Struct, frozen=True):
    """An answer to a media request, whole or as a stream that must be closed, and what its caller is told about it."""

    content_type: str
    body: bytes | LiveStream
    report: Report


class CachedStream:
    """A cached chat completion, streamed. Settled already, and nothing can go wrong any more."""

    heartbeat = b""
    ending = chunks.DONE

    def __init__(self, events: list[bytes], report: Report) -> None:
        self.report = report
        self._events = events

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._events)

    def error_event(self, error: GatewayError, request_id: str) -> bytes:
        return b"data: " + msgspec.json.encode(error_body(error, request_id)) + b"\n\n"

    def close(self) -> None:
        """Ends nothing: it was settled before it was returned."""

"""A stream on its way to the client, and the promise that it is settled once however it ends.

The call is settled before the client is told that the stream is complete: a client that sends its next call at
once finds its concurrency slot free. A stream that is closed before that was aborted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from app.errors import ClientGone, GatewayError, UpstreamError
from app.gateway import chunks
from app.gateway.accounting import Accounting
from app.gateway.call import Report, RunningCall
from app.providers.base import ProviderStream


class LiveStream:
    """Yields blocks of whole SSE events, and `b""` when a heartbeat is due. Raises `UpstreamError`, `ClientGone`."""

    def __init__(
        self,
        *,
        call: RunningCall,
        upstream: ProviderStream,
        accounting: Accounting,
        report: Report,
        keep_ttl_s: int,
        keep_bytes: int,
        not_kept: Callable[[], None],
    ) -> None:
        """`not_kept` is called as soon as an answer that was to be kept turns out to be none that can be."""
        self.report = report
        self._call = call
        self._upstream = upstream
        self._accounting = accounting
        self._keep_ttl_s = keep_ttl_s
        self._room = keep_bytes  # for blocks to keep; never more than one cache entry's worth
        self._not_kept = not_kept
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
            self._not_kept()
        self._accounting.completed(
            self._call,
            upstream.usage,
            text_bytes=upstream.text_bytes,
            chunks=upstream.chunks,
            keep=kept or b"",
            ttl_s=self._keep_ttl_s,
        )

    def _end(self, status: str, http_status: int, error: GatewayError | None = None) -> None:
        upstream = self._upstream
        usage = upstream.usage
        if usage is None and not (isinstance(error, UpstreamError) and not error.billable):
            usage = self._accounting.estimate(self._call, upstream.text_bytes, upstream.chunks)
        self._accounting.failed(self._call, status, http_status, error, usage=usage)

    def _keep(self, block: bytes) -> None:
        self._room -= len(block)
        if self._room > 0:
            self._kept.append(block)
        else:
            self._kept.clear()
            self._not_kept()


class CachedStream:
    """A cached answer, streamed. Settled already."""

    def __init__(self, events: list[bytes], report: Report) -> None:
        self.report = report
        self._events = events

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._events)

    def close(self) -> None:
        """Nothing is left to end."""

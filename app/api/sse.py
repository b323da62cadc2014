"""Server-sent events: a stream of blocks as a response body, with heartbeats and an unmistakable end.

After the first byte an error can only be an event of the caller's dialect, then the end of the stream without the
dialect's terminal event, which clients would take for success (docs/clients.md, "Server-sent events").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import structlog

from app.api.headers import call_headers
from app.api.http import HttpRequest, HttpResponse
from app.errors import ClientGone, GatewayError
from app.gateway.call import Report
from app.net.hangup import watch_for_hangup
from app.providers.base import CancelToken

log = structlog.get_logger()
_HEADERS = [
    ("Content-Type", "text/event-stream; charset=utf-8"),
    ("Cache-Control", "no-cache"),
    ("X-Accel-Buffering", "no"),
]


class ReplyStream(Protocol):
    """A running stream's blocks of whole events; `b""` when a heartbeat is due. See `gateway.stream`."""

    report: Report
    heartbeat: bytes

    @property
    def ending(self) -> bytes:
        """The last bytes for the client, when the iteration has ended."""

    def __iter__(self) -> Iterator[bytes]: ...

    def error_event(self, error: GatewayError, request_id: str) -> bytes:
        """Returns the event for an error, after which nothing follows."""

    def close(self) -> None: ...


def stream_response(
    http_request: HttpRequest,
    cancel: CancelToken,
    start: Callable[[], ReplyStream],
    headers_of: Callable[[Report], list[tuple[str, str]]] = call_headers,
) -> HttpResponse:
    """Starts a stream and returns it as a response. Raises what `start` raises: nothing has been sent yet."""
    stop_watching = watch_for_hangup(http_request.environ, cancel.cancel)
    try:
        stream = start()
    except BaseException:
        stop_watching()
        raise
    headers = [*_HEADERS, *headers_of(stream.report)]
    return HttpResponse(200, headers, StreamBody(stream, http_request, stop_watching))


def events(stream: ReplyStream, request_id: str) -> Iterator[bytes]:
    """Yields a stream's events, and one for an error that ends it."""
    try:
        for block in stream:
            yield block or stream.heartbeat
    except ClientGone:
        return
    except GatewayError as exc:
        yield stream.error_event(exc, request_id)
        return
    except Exception as exc:  # the boundary for bugs in mid-stream: the client must not take it for the end
        log.error("stream_failed", request_id=request_id, exc_info=exc)
        yield stream.error_event(GatewayError("The server had an error while streaming the answer."), request_id)
        return
    ending = stream.ending
    if ending:
        yield ending


class StreamBody:
    """A stream as a WSGI body. Its `close` is called whatever happens, also when its first byte is never asked for.

    `write` yields the stream's bytes, given the request's id.
    """

    def __init__(
        self,
        stream: ReplyStream,
        http_request: HttpRequest,
        stop_watching: Callable[[], None],
        write: Callable[[ReplyStream, str], Iterator[bytes]] = events,
    ) -> None:
        self._write = write
        self._stream = stream
        self._http_request = http_request
        self._stop_watching = stop_watching

    def __iter__(self) -> Iterator[bytes]:
        return self._write(self._stream, self._http_request.request_id)

    def close(self) -> None:
        try:
            self._stop_watching()
            self._stream.close()
        finally:
            self._http_request.release_body()

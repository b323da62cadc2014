"""A stream as server-sent events: chunks as they come, heartbeats, and an honest end.

After the first byte an error can only be an event: `data: {"error": …}`, then the end of the stream without
`[DONE]`, which clients would take for success (docs/clients.md, "Server-sent events").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import msgspec
import structlog

from app.api.errors import error_body
from app.api.headers import call_headers
from app.api.http import HttpResponse
from app.errors import ClientGone, GatewayError
from app.gateway.call import Report

log = structlog.get_logger()
_HEARTBEAT = b": keep-alive\n\n"
_DONE = b"data: [DONE]\n\n"
_HEADERS = [
    ("Content-Type", "text/event-stream; charset=utf-8"),
    ("Cache-Control", "no-cache"),
    ("X-Accel-Buffering", "no"),
]


class Stream(Protocol):
    """See `gateway.stream.LiveStream`: blocks of whole events, `b""` when a heartbeat is due."""

    report: Report

    def __iter__(self) -> Iterator[bytes]: ...

    def close(self) -> None: ...


def stream_answer(stream: Stream, stop_watching: Callable[[], None], request_id: str) -> HttpResponse:
    return HttpResponse(200, [*_HEADERS, *call_headers(stream.report)], Events(stream, stop_watching, request_id))


class Events:
    """A stream's bytes. Its `close` is called whatever happens, also when its first byte is never asked for."""

    def __init__(self, stream: Stream, stop_watching: Callable[[], None], request_id: str) -> None:
        self._stream = stream
        self._stop_watching = stop_watching
        self._request_id = request_id

    def __iter__(self) -> Iterator[bytes]:
        return _events(self._stream, self._request_id)

    def close(self) -> None:
        self._stop_watching()
        self._stream.close()


def _events(stream: Stream, request_id: str) -> Iterator[bytes]:
    try:
        for block in stream:
            yield block or _HEARTBEAT
    except ClientGone:
        return
    except GatewayError as exc:
        yield _error(exc, request_id)
        return
    except Exception as exc:  # the boundary for bugs in mid-stream: the client must not take it for the end
        log.error("stream_failed", request_id=request_id, exc_info=exc)
        yield _error(GatewayError("The server had an error while streaming the answer."), request_id)
        return
    yield _DONE


def _error(error: GatewayError, request_id: str) -> bytes:
    return b"data: " + msgspec.json.encode(error_body(error, request_id)) + b"\n\n"

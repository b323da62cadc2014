"""A stream as server-sent events: chunks as they come, heartbeats, and an honest end.

After the first byte an error can only be an event: `data: {"error": …}`, then the end of the stream without
`[DONE]`, which clients would take for success (CONVENTIONS, "Server-sent events").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec
import structlog
from flask import Response

from app.api.errors import error_body
from app.api.headers import call_headers
from app.errors import ClientGone, GatewayError
from app.gateway.stream import CachedStream, LiveStream

log = structlog.get_logger()
_HEARTBEAT = b": keep-alive\n\n"
_DONE = b"data: [DONE]\n\n"
_HEADERS = [("Cache-Control", "no-cache"), ("X-Accel-Buffering", "no")]


def stream_response(stream: LiveStream | CachedStream, stop_watching: Callable[[], None], request_id: str) -> Response:
    """`stream` as a response that closes it whatever happens: also when its first byte is never asked for."""
    response = Response(
        _events(stream, request_id),
        headers=[*_HEADERS, *call_headers(stream.report)],
        content_type="text/event-stream; charset=utf-8",
        direct_passthrough=True,
    )

    def end() -> None:
        stop_watching()
        stream.close()

    response.call_on_close(end)
    return response


def _events(stream: LiveStream | CachedStream, request_id: str) -> Iterator[bytes]:
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

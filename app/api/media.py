"""`POST /moderations`, `/audio/…` and `/images/…`: passed on in OpenAI's dialect, as JSON or as a form."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from app.api.headers import call_headers
from app.api.http import HttpRequest, HttpResponse
from app.api.sse import ReplyStream, StreamBody, events
from app.domain.identity import Caller
from app.domain.media import RULES, MediaEndpoint, MediaRequest
from app.errors import ClientGone, GatewayError
from app.gateway.stream import MediaReply
from app.net.hangup import watch_for_hangup
from app.providers.base import CancelToken
from app.services import Services


def create(
    services: Services, caller: Caller, http_request: HttpRequest, body: bytes, *, endpoint: MediaEndpoint
) -> HttpResponse:
    """Makes a media call. The answer is the provider's, whole or as it arrives."""
    parsed = MediaRequest.parse(endpoint, body, http_request.environ.get("CONTENT_TYPE", ""))
    cancel = CancelToken()
    context = http_request.call_context(cancel)
    stop_watching = watch_for_hangup(http_request.environ, cancel.cancel)
    try:
        reply = services.pipeline.media(caller, parsed, context)
    except BaseException:
        stop_watching()
        raise
    return _response(reply, http_request, stop_watching)


def accepted_types(endpoint: MediaEndpoint) -> tuple[str, ...]:
    """Returns the content types that the endpoint's bodies may have."""
    rules = RULES[endpoint]
    return ("application/json",) * rules.json + ("multipart/form-data",) * rules.form


def _response(reply: MediaReply, http_request: HttpRequest, stop_watching: Callable[[], None]) -> HttpResponse:
    headers = [("Content-Type", reply.content_type), *call_headers(reply.report)]
    if isinstance(reply.body, bytes):
        stop_watching()
        return HttpResponse(200, headers, reply.body)
    headers += [("Cache-Control", "no-cache"), ("X-Accel-Buffering", "no")]
    write = events if reply.body.heartbeat else sound
    return HttpResponse(200, headers, StreamBody(reply.body, http_request, stop_watching, write))


def sound(stream: ReplyStream, _request_id: str) -> Iterator[bytes]:
    """Yields a stream of sound. Nothing can be said in it: a client sees by its length that it was cut off."""
    try:
        yield from stream
    except ClientGone:
        return
    except GatewayError as exc:
        raise ConnectionAbortedError("The sound breaks off.") from exc

"""`POST /chat/completions`, and `/chat/smart`, which picks the model itself."""

from __future__ import annotations

from functools import partial

from app.api.headers import call_headers
from app.api.http import HttpRequest, HttpResponse, json_response
from app.api.sse import stream_response
from app.domain.chat import ChatRequest
from app.domain.identity import Caller
from app.net.hangup import watch_for_hangup
from app.providers.base import CancelToken
from app.services import Services


def create(
    services: Services, caller: Caller, http_request: HttpRequest, body: bytes, *, smart: bool = False
) -> HttpResponse:
    """Completes a chat, whole or as a stream."""
    parsed = ChatRequest.parse(body)
    cancel = CancelToken()
    context = http_request.call_context(cancel)
    context.smart = smart
    pipeline = services.pipeline
    if parsed.stream:
        return stream_response(http_request, cancel, partial(pipeline.stream, caller, parsed, context))
    stop_watching = watch_for_hangup(http_request.environ, cancel.cancel)
    try:
        reply = pipeline.chat(caller, parsed, context)
    finally:
        stop_watching()
    return json_response(reply.body, call_headers(reply.report))


create_smart = partial(create, smart=True)

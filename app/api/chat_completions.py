"""`POST /chat/completions`, and `/chat/smart`, which picks the model itself."""

from __future__ import annotations

from functools import partial

from app.api.hangup import cancelled_on_hangup
from app.api.headers import call_headers
from app.api.http import HttpRequest, HttpResponse, json_response
from app.api.sse import stream_response
from app.domain.chat import ChatRequest
from app.domain.identity import Caller
from app.providers.base import CancelToken
from app.services import Services


def create(
    services: Services, caller: Caller, http_request: HttpRequest, body: bytes, *, smart: bool = False
) -> HttpResponse:
    """Completes a chat, whole or as a stream."""
    parsed = ChatRequest.parse(body)
    cancel = CancelToken()
    context = http_request.call_context(cancel, smart=smart)
    pipeline = services.pipeline
    if parsed.stream:
        return stream_response(http_request, cancel, partial(pipeline.stream, caller, parsed, context))
    reply = cancelled_on_hangup(http_request, cancel, partial(pipeline.chat, caller, parsed, context))
    return json_response(reply.body, call_headers(reply.report))

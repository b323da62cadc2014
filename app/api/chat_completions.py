"""`POST /chat/completions`, and `/chat/smart`, which picks the model itself."""

from __future__ import annotations

from functools import partial

from app.api.hangup import cancelled_on_hangup
from app.api.headers import call_headers
from app.api.http import HttpRequest, HttpResponse, json_response
from app.api.responses_as_chat import as_chat_request, has_responses_shape
from app.api.sse import stream_response
from app.domain.chat import ChatRequest
from app.domain.identity import Caller
from app.errors import InvalidRequest
from app.gateway.call import Report
from app.providers.base import CancelToken
from app.services import Services


def create(
    services: Services, caller: Caller, http_request: HttpRequest, body: bytes, *, smart: bool = False
) -> HttpResponse:
    """Completes a chat, whole or as a stream. A Responses request is answered as a chat, too."""
    try:
        parsed, dropped = ChatRequest.parse(body), list[str]()
    except InvalidRequest:
        if not has_responses_shape(body):
            raise
        parsed, dropped = as_chat_request(body)
    cancel = CancelToken()
    context = http_request.call_context(cancel, smart=smart)

    def headers_of(report: Report) -> list[tuple[str, str]]:
        return [*call_headers(report), *(("x-penstock-dropped", path) for path in dropped)]

    pipeline = services.pipeline
    if parsed.stream:
        return stream_response(http_request, cancel, partial(pipeline.stream, caller, parsed, context), headers_of)
    reply = cancelled_on_hangup(http_request, cancel, partial(pipeline.chat, caller, parsed, context))
    return json_response(reply.body, headers_of(reply.report))

"""`POST /embeddings`."""

from __future__ import annotations

from functools import partial

from app.api.hangup import cancelled_on_hangup
from app.api.headers import call_headers
from app.api.http import HttpRequest, HttpResponse, json_response
from app.domain.chat import EmbedRequest
from app.domain.identity import Caller
from app.providers.base import CancelToken
from app.services import Services


def create(services: Services, caller: Caller, http_request: HttpRequest, body: bytes) -> HttpResponse:
    """Embeds one input or several."""
    parsed = EmbedRequest.parse(body)
    cancel = CancelToken()
    context = http_request.call_context(cancel)
    reply = cancelled_on_hangup(http_request, cancel, partial(services.pipeline.embed, caller, parsed, context))
    return json_response(reply.body, call_headers(reply.report))

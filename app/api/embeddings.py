"""`POST /embeddings`."""

from __future__ import annotations

from app.api.headers import call_headers
from app.api.http import HttpRequest, HttpResponse, json_response
from app.domain.chat import EmbedRequest
from app.domain.identity import Caller
from app.net.hangup import watch_for_hangup
from app.providers.base import CancelToken
from app.services import Services


def create(services: Services, caller: Caller, http_request: HttpRequest, body: bytes) -> HttpResponse:
    """Embeds one input or several."""
    parsed = EmbedRequest.parse(body)
    cancel = CancelToken()
    stop_watching = watch_for_hangup(http_request.environ, cancel.cancel)
    try:
        reply = services.pipeline.embed(caller, parsed, http_request.call_context(cancel))
    finally:
        stop_watching()
    return json_response(reply.body, call_headers(reply.report))

"""Chat completions and embeddings: bytes in, parsed once, the pipeline's answer out."""

from __future__ import annotations

import gevent
from flask import Blueprint, Response, request
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import ClientDisconnected

from app.api.context import call_context, caller, request_id, require, services
from app.api.hangup import watch
from app.api.headers import call_headers
from app.api.sse import stream_response
from app.domain.chat import ChatRequest, EmbedRequest
from app.domain.identity import Scope
from app.errors import InvalidRequest, RequestTooLarge, UnsupportedMediaType
from app.gateway.pipeline import Reply
from app.providers.base import CancelToken

bp = Blueprint("chat", __name__)


@bp.post("/chat/completions")
@require(Scope.CHAT, admitted=True)
def chat_completions() -> Response:
    parsed = ChatRequest.parse(_body())
    cancel = CancelToken()
    stop_watching = watch(request.environ, cancel)
    if parsed.stream:
        try:
            stream = services().pipeline.stream(caller(), parsed, call_context(cancel))
        except BaseException:
            stop_watching()
            raise
        return stream_response(stream, stop_watching, request_id())
    try:
        return _json(services().pipeline.chat(caller(), parsed, call_context(cancel)))
    finally:
        stop_watching()


@bp.post("/embeddings")
@require(Scope.EMBED, admitted=True)
def embeddings() -> Response:
    parsed = EmbedRequest.parse(_body())
    cancel = CancelToken()
    stop_watching = watch(request.environ, cancel)
    try:
        return _json(services().pipeline.embed(caller(), parsed, call_context(cancel)))
    finally:
        stop_watching()


def _json(reply: Reply) -> Response:
    return Response(reply.body, headers=call_headers(reply.report), content_type="application/json")


def _body() -> bytes:
    """The request's body. Raises `UnsupportedMediaType`, `RequestTooLarge`, `InvalidRequest` (came too slowly)."""
    if request.mimetype != "application/json":
        raise UnsupportedMediaType("Expected Content-Type: application/json.")
    limit_s = services().settings.config.server.body_timeout_s
    try:
        with gevent.Timeout(limit_s):
            body = request.get_data(cache=False)
    except gevent.Timeout:
        raise InvalidRequest(f"The request body did not arrive within {limit_s:g} seconds.") from None
    except (ClientDisconnected, OSError):
        raise InvalidRequest("The request body ended early.") from None
    except ParseException:
        raise InvalidRequest("The request body is not validly chunked.") from None
    # A body that does not say its length is cut off at the limit, instead of being refused as others are.
    if request.content_length is None and len(body) >= (request.max_content_length or len(body) + 1):
        raise RequestTooLarge("The request body is too large.")
    return body

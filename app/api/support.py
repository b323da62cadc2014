"""The support assistant over HTTP: `POST /chat`, and each user's history."""

from __future__ import annotations

from typing import Any

import msgspec
from flask import Blueprint

from app.api.context import caller, require, services
from app.api.errors import utc_timestamp
from app.api.hangup import watch
from app.api.headers import call_headers
from app.api.http import HttpRequest, HttpResponse
from app.api.sse import stream_answer
from app.domain.identity import Caller, Scope
from app.features.support import SupportAnswer, SupportAssistant
from app.providers.base import CancelToken

# POST /chat itself is served by `api.fast_path.FastPath`, as every call to a model is.
bp = Blueprint("support", __name__)
bp.add_url_rule("/chat", "converse", methods=["POST"])
# A path, so that a slash is refused as what it is, a wrong user id, and not as an unknown URL.
_HISTORY = "/chat/history/<path:user_id>"
_encode = msgspec.json.Encoder().encode


def converse(support: SupportAssistant, who: Caller, body: bytes, http_request: HttpRequest) -> HttpResponse:
    """Answers one message, whole or as a stream."""
    ask = support.parse(body)
    cancel = CancelToken()
    stop_watching = watch(http_request.environ, cancel)
    context = http_request.call_context(cancel)
    if ask.stream:
        try:
            stream = support.stream(who, ask, context)
        except BaseException:
            stop_watching()
            raise
        return stream_answer(stream, stop_watching, http_request.request_id)
    try:
        return _whole(ask.user_id, support.answer(who, ask, context))
    finally:
        stop_watching()


def _whole(user_id: str, said: SupportAnswer) -> HttpResponse:
    answer: dict[str, Any] = {
        "response": said.text,
        "user_id": user_id,
        "timestamp": utc_timestamp(),
        "usage": said.usage,
    }
    if said.report.cache == "hit":
        answer["cached"] = True
    return HttpResponse(200, [("Content-Type", "application/json"), *call_headers(said.report)], _encode(answer))


@bp.get(_HISTORY)
@require(Scope.CHAT)
def history(user_id: str) -> dict[str, Any]:
    """The conversation so far; an unknown user's is empty."""
    return _conversation(user_id, services().support.messages(caller(), user_id))


@bp.delete(_HISTORY)
@require(Scope.CHAT)
def forget(user_id: str) -> dict[str, Any]:
    services().support.forget(caller(), user_id)
    return _conversation(user_id, [])


def _conversation(user_id: str, messages: list[dict[str, str]]) -> dict[str, Any]:
    return {"user_id": user_id, "messages": messages, "message_count": len(messages)}

"""The support assistant over HTTP: `POST /chat`, and each user's conversation."""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec

from app.api.context import caller, services
from app.api.hangup import cancelled_on_hangup
from app.api.headers import call_headers
from app.api.http import HttpRequest, HttpResponse, json_response
from app.api.sse import stream_response
from app.domain.identity import Caller
from app.features.support import SupportAnswer
from app.net.error_body import utc_timestamp
from app.providers.base import CancelToken
from app.services import Services

_encode = msgspec.json.Encoder().encode


def converse(services: Services, caller: Caller, http_request: HttpRequest, body: bytes) -> HttpResponse:
    """Answers one message, whole or as a stream."""
    support = services.support
    message = support.parse(body)
    cancel = CancelToken()
    context = http_request.call_context(cancel)
    if message.stream:
        return stream_response(http_request, cancel, partial(support.stream, caller, message, context))
    answer = cancelled_on_hangup(http_request, cancel, partial(support.answer, caller, message, context))
    return json_response(_encode(_described(message.user_id, answer)), call_headers(answer.report))


def history(user_id: str) -> dict[str, Any]:
    """Returns the conversation so far; an unknown user's is empty."""
    return _conversation(user_id, services().support.messages(caller(), user_id))


def forget(user_id: str) -> dict[str, Any]:
    """Deletes the conversation."""
    services().support.forget(caller(), user_id)
    return _conversation(user_id, [])


def _described(user_id: str, answer: SupportAnswer) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "response": answer.text,
        "user_id": user_id,
        "timestamp": utc_timestamp(),
        "usage": answer.usage,
    }
    if answer.report.cache == "hit":
        fields["cached"] = True
    return fields


def _conversation(user_id: str, messages: list[dict[str, str]]) -> dict[str, Any]:
    return {"user_id": user_id, "messages": messages, "message_count": len(messages)}

"""Responses requests on the path of chat completions: Cursor sends them there, and wants chunks of a chat back."""

from __future__ import annotations

import msgspec

from app.domain.body import encode
from app.domain.chat import ChatRequest
from app.domain.responses import ResponsesRequest
from app.errors import InvalidRequest
from app.providers.dialects import DIALECTS
from app.providers.dialects.dialect import Outgoing

_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])


def has_responses_shape(body: bytes) -> bool:
    """Tells if a body is a Responses request: it has an `input`, and no `messages`."""
    try:
        fields = _FIELDS.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return False
    return "input" in fields and "messages" not in fields


def as_chat_request(body: bytes) -> tuple[ChatRequest, list[str]]:
    """Returns the chat that a Responses request asks for, and the paths of what was left out.

    Raises `InvalidRequest`, also for what has no counterpart, such as `previous_response_id`.
    """
    request = ResponsesRequest.parse(body)
    if request.previous_response_id is not None:
        raise InvalidRequest(
            "`previous_response_id` is for POST /v1/responses: a chat is sent whole.", param="previous_response_id"
        )
    outgoing = Outgoing(
        origin="", model=request.model, stream=bool(request.stream), max_tokens_field="max_completion_tokens"
    )
    chat = DIALECTS["chat"].encode_request(DIALECTS["responses"].decode_request(request), outgoing)
    return ChatRequest.parse(encode({name: value for name, value in chat.items() if value != ""})), outgoing.dropped

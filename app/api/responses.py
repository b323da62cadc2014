"""`POST /responses` and `/responses/input_tokens`, and the responses that were kept."""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec
from flask import Response, request

from app.api.context import caller, services
from app.api.hangup import cancelled_on_hangup
from app.api.headers import call_headers, limit_headers
from app.api.http import HttpRequest, HttpResponse, json_response
from app.api.pagination import after, limit, page
from app.api.sse import stream_response
from app.domain.body import decode_body, replace_fields
from app.domain.identity import Caller
from app.domain.responses import ResponsesRequest
from app.errors import InvalidRequest, NotFound
from app.gateway.token_counter import TokenCount
from app.providers.base import CancelToken
from app.services import Services

_MAX_ITEMS, _ITEMS = 100, 20
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_encode = msgspec.json.Encoder().encode


def create(services: Services, caller: Caller, http_request: HttpRequest, body: bytes) -> HttpResponse:
    """Creates a response, whole or as a stream."""
    parsed = ResponsesRequest.parse(body)
    cancel = CancelToken()
    context = http_request.call_context(cancel, endpoint="responses", headers=_forwarded(http_request))
    if parsed.stream:
        return stream_response(http_request, cancel, partial(services.responses.stream, caller, parsed, context))
    reply = cancelled_on_hangup(http_request, cancel, partial(services.responses.create, caller, parsed, context))
    return json_response(reply.body, call_headers(reply.report))


def count_tokens(services: Services, caller: Caller, http_request: HttpRequest, body: bytes) -> HttpResponse:
    """Counts the tokens of a request, with the conversation that it continues."""
    fields = decode_body(_FIELDS, body)
    parsed = ResponsesRequest.parse(body if "input" in fields else replace_fields(body, {"input": ""}))
    cancel = CancelToken()
    context = http_request.call_context(cancel, endpoint="responses")

    def count() -> TokenCount:
        return services.token_counter.count(caller, services.responses.turn(caller, parsed).request, context)

    counted = cancelled_on_hangup(http_request, cancel, count)
    answer = counted.body or _encode({"object": "response.input_tokens", "input_tokens": counted.tokens})
    return json_response(answer, limit_headers(counted.remaining))


def retrieve(response_id: str) -> Response:
    """Returns a kept response as it was answered."""
    if request.args.get("stream") == "true":
        raise InvalidRequest("A kept response cannot be streamed again: `stream`.", param="stream")
    stored = services().responses.get(caller().key_id, response_id)
    return Response(bytes(stored.response), mimetype="application/json")


def delete(response_id: str) -> dict[str, Any]:
    services().responses.delete(caller().key_id, response_id)
    return {"id": response_id, "object": "response", "deleted": True}


def input_items(response_id: str) -> dict[str, Any]:
    """Returns a page of the items that a kept response was made from, the newest first unless `order` is asc."""
    order = request.args.get("order", "desc")
    if order not in ("asc", "desc"):
        raise InvalidRequest("Expected asc or desc: `order`.", param="order")
    items = services().responses.input_items(caller().key_id, response_id)
    if order == "desc":
        items.reverse()
    last, size = after(), limit(_ITEMS, _MAX_ITEMS)
    if last:
        places = [i for i, item in enumerate(items) if item["id"] == last]
        if not places:
            raise NotFound("There is no item with the id of `after`.", param="after")
        items = items[places[0] + 1 :]
    return page(items[:size], len(items) > size)


def _forwarded(http_request: HttpRequest) -> bytes:
    """Returns the caller's headers that belong to fields of its body."""
    beta = http_request.environ.get("HTTP_OPENAI_BETA")
    return f"OpenAI-Beta: {beta}\r\n".encode("latin-1") if beta else b""

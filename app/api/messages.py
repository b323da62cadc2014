"""`POST /messages`, Anthropic's dialect, and `/messages/count_tokens`."""

from __future__ import annotations

from functools import partial

from app.api.anthropic_headers import answer_headers, forwarded_headers
from app.api.hangup import cancelled_on_hangup
from app.api.headers import call_headers, limit_headers
from app.api.http import HttpRequest, HttpResponse, json_response
from app.api.sse import stream_response
from app.domain.body import encode
from app.domain.identity import Caller
from app.domain.messages import MessagesRequest
from app.gateway.call import Report
from app.providers.base import CancelToken
from app.services import Services


def create(services: Services, caller: Caller, http_request: HttpRequest, body: bytes) -> HttpResponse:
    """Answers a conversation, whole or as a stream."""
    parsed = MessagesRequest.parse(body)
    cancel = CancelToken()
    context = http_request.call_context(cancel, endpoint="messages", headers=forwarded_headers(http_request.environ))

    def headers_of(report: Report) -> list[tuple[str, str]]:
        return [*call_headers(report), *answer_headers(http_request.request_id, report.remaining)]

    pipeline = services.pipeline
    if parsed.stream:
        start = partial(pipeline.stream, caller, parsed, context)
        return stream_response(http_request, cancel, start, headers_of)
    reply = cancelled_on_hangup(http_request, cancel, partial(pipeline.chat, caller, parsed, context))
    return json_response(reply.body, headers_of(reply.report))


def count_tokens(services: Services, caller: Caller, http_request: HttpRequest, body: bytes) -> HttpResponse:
    """Counts the tokens of a prompt."""
    parsed = MessagesRequest.parse_count(body)
    cancel = CancelToken()
    headers = forwarded_headers(http_request.environ)
    context = http_request.call_context(cancel, endpoint="messages.count_tokens", headers=headers)
    count = partial(services.token_counter.count, caller, parsed, context)
    counted = cancelled_on_hangup(http_request, cancel, count)
    answer = counted.body or encode({"input_tokens": counted.tokens})
    remaining = [*limit_headers(counted.remaining), *answer_headers(http_request.request_id, counted.remaining)]
    return json_response(answer, remaining)

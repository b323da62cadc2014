"""Google's generateContent and its relatives: `POST /models/<model>:<method>`, and its list of models."""

from __future__ import annotations

from functools import partial
from typing import Any
from urllib.parse import parse_qs

import msgspec

from app.api import models
from app.api.context import services as current_services
from app.api.hangup import cancelled_on_hangup
from app.api.headers import call_headers, limit_headers
from app.api.http import HttpRequest, HttpResponse, json_response
from app.api.json_array import as_json_array
from app.api.sse import stream_response
from app.domain.body import decode_body, encode
from app.domain.chat import EmbedRequest
from app.domain.gemini import GeminiRequest
from app.domain.identity import Caller
from app.providers.base import CancelToken
from app.providers.dialects.gemini import embeddings
from app.services import Services

_ENDPOINT = "generate_content"
_METHODS = {
    "chat": ["generateContent", "streamGenerateContent", "countTokens"],
    "embedding": ["embedContent", "batchEmbedContents"],
}


class _CountBody(msgspec.Struct, frozen=True, rename="camel"):
    generate_content_request: msgspec.Raw = msgspec.Raw(b"")
    generate_content_request_snake: msgspec.Raw = msgspec.field(
        default=msgspec.Raw(b""), name="generate_content_request"
    )


_COUNT_BODY = msgspec.json.Decoder(_CountBody)


def generate(services: Services, caller: Caller, http_request: HttpRequest, body: bytes, model: str) -> HttpResponse:
    """Answers a prompt whole."""
    parsed = GeminiRequest.parse(body, _plain(model), stream=False)
    cancel = CancelToken()
    context = http_request.call_context(cancel, endpoint=_ENDPOINT)
    reply = cancelled_on_hangup(http_request, cancel, partial(services.pipeline.chat, caller, parsed, context))
    return json_response(reply.body, call_headers(reply.report))


def stream(services: Services, caller: Caller, http_request: HttpRequest, body: bytes, model: str) -> HttpResponse:
    """Answers a prompt piece by piece: as server-sent events if the query has `alt=sse`, or else as a JSON array."""
    parsed = GeminiRequest.parse(body, _plain(model), stream=True)
    cancel = CancelToken()
    context = http_request.call_context(cancel, endpoint=_ENDPOINT)
    response = stream_response(http_request, cancel, partial(services.pipeline.stream, caller, parsed, context))
    query = http_request.environ.get("QUERY_STRING", "")
    is_sse = query == "alt=sse" or parse_qs(query).get("alt") == ["sse"]
    return response if is_sse else as_json_array(response)


def count_tokens(
    services: Services, caller: Caller, http_request: HttpRequest, body: bytes, model: str
) -> HttpResponse:
    """Counts the tokens of a prompt: of contents, or of a whole request for an answer."""
    wrapped = decode_body(_COUNT_BODY, body)
    inner = bytes(wrapped.generate_content_request) or bytes(wrapped.generate_content_request_snake)
    parsed = GeminiRequest.parse(inner or body, _plain(model), stream=False)
    cancel = CancelToken()
    context = http_request.call_context(cancel, endpoint=_ENDPOINT)
    count = cancelled_on_hangup(http_request, cancel, partial(services.token_counter.count, caller, parsed, context))
    answer = count.body or encode({"totalTokens": count.tokens})
    return json_response(answer, limit_headers(count.remaining))


def embed(services: Services, caller: Caller, http_request: HttpRequest, body: bytes, model: str) -> HttpResponse:
    """Embeds one content."""
    return _embed(services, caller, http_request, embeddings.read_request(body, _plain(model)), batch=False)


def embed_batch(services: Services, caller: Caller, http_request: HttpRequest, body: bytes, model: str) -> HttpResponse:
    """Embeds several contents."""
    return _embed(services, caller, http_request, embeddings.read_batch(body, _plain(model)), batch=True)


def _embed(
    services: Services, caller: Caller, http_request: HttpRequest, request: EmbedRequest, *, batch: bool
) -> HttpResponse:
    cancel = CancelToken()
    context = http_request.call_context(cancel)
    reply = cancelled_on_hangup(http_request, cancel, partial(services.pipeline.embed, caller, request, context))
    return json_response(embeddings.write_answer(reply.body, batch=batch), call_headers(reply.report))


def _plain(model: str) -> str:
    """Returns the model's name, without the folder in which Google has all of its own."""
    return model.removeprefix("models/")


def list_models() -> dict[str, Any]:
    """Returns all models that the key may use, on one page."""
    return {"models": [_model(each) for each in models.list_usable()]}


def get_model(model_id: str) -> dict[str, Any]:
    """Returns one model, named with or without Google's folder."""
    return _model(models.find(_plain(model_id)))


def _model(model: dict[str, Any]) -> dict[str, Any]:
    """Returns a model, given as OpenAI's list has it, as Google's has it."""
    config = current_services().settings.config.models.get(model["id"])
    found: dict[str, Any] = {
        "name": f"models/{model['id']}",
        "baseModelId": model["id"],
        "version": "001",
        "displayName": model["name"],
        "description": model["description"] or "",
        "supportedGenerationMethods": _METHODS.get(config.kind if config is not None else "chat", []),
    }
    limits = {"inputTokenLimit": model.get("context_window"), "outputTokenLimit": model.get("max_tokens")}
    return found | {name: limit for name, limit in limits.items() if limit is not None}

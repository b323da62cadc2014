"""Embeddings of Gemini: callers' requests and answers in its shapes, and its vendors' in OpenAI's.

Source: Google's API reference, "models.embedContent" and "models.batchEmbedContents".
"""

from __future__ import annotations

import base64
import struct
from typing import Any
from urllib.parse import quote

import msgspec

from app.domain.body import decode_body, encode
from app.domain.chat import EmbedRequest
from app.domain.gemini_names import camel
from app.errors import InvalidRequest, Untranslatable
from app.providers.dialects.gemini.usage import WireUsage, read_usage

# What Google alone knows of a text: for its vendors, and left out for others.
GOOGLE_FIELDS = ("taskType", "title")
_SETTINGS = {"outputDimensionality": "dimensions", "taskType": "taskType", "title": "title"}
_GOOGLE_NAMES = {ours: google for google, ours in _SETTINGS.items()}
_OBJECT = msgspec.json.Decoder(dict[str, Any])


class _Embedding(msgspec.Struct, frozen=True):
    embedding: msgspec.Raw
    index: int = 0


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int = 0


class _OpenAIAnswer(msgspec.Struct, frozen=True):
    data: list[_Embedding]
    usage: _Usage | None = None


class _Values(msgspec.Struct, frozen=True):
    values: list[float]


class _GeminiAnswer(msgspec.Struct, frozen=True, rename="camel"):
    embeddings: list[_Values]
    usage_metadata: WireUsage | None = None


_OPENAI = msgspec.json.Decoder(_OpenAIAnswer)
_GEMINI = msgspec.json.Decoder(_GeminiAnswer)


def read_request(body: bytes, model: str) -> EmbedRequest:
    """Returns the request of an embedContent body. Raises `InvalidRequest`."""
    return _request([decode_body(_OBJECT, body)], model, "")


def read_batch(body: bytes, model: str) -> EmbedRequest:
    """Returns the request of a batchEmbedContents body, whose requests must agree in all but their texts."""
    requests = decode_body(_OBJECT, body).get("requests")
    if not isinstance(requests, list) or not requests or not all(isinstance(each, dict) for each in requests):
        raise InvalidRequest("Expected a list of requests: `requests`.", param="requests")
    return _request(requests, model, "requests")


def _request(requests: list[dict[str, Any]], model: str, path: str) -> EmbedRequest:
    texts: list[str] = []
    shared: dict[str, Any] = {}
    for i, given in enumerate(requests):
        where = f"{path}[{i}]." if path else ""
        each = {camel(name): value for name, value in given.items()}
        texts.append(_text(each.get("content"), f"{where}content"))
        settings = {_SETTINGS[name]: each[name] for name in _SETTINGS if each.get(name) is not None}
        for name, value in settings.items():
            if not isinstance(value, int if name == "dimensions" else str) or isinstance(value, bool):
                raise InvalidRequest(
                    f"Of the wrong type: `{where}{_GOOGLE_NAMES[name]}`.", param=where + _GOOGLE_NAMES[name]
                )
        if i and settings != shared:
            raise InvalidRequest(f"`{path}[{i}]` has other settings than the first one.", param=f"{path}[{i}]")
        shared = settings
    return EmbedRequest.parse(encode({"model": model, "input": texts, **shared}))


def _text(content: Any, path: str) -> str:
    parts = content.get("parts") if isinstance(content, dict) else None
    listed = parts if isinstance(parts, list) else [parts]
    texts = [
        part["text"]
        for part in listed
        if isinstance(part, dict) and part.keys() == {"text"} and isinstance(part["text"], str)
    ]
    if len(texts) < len(listed) or not any(texts):
        raise InvalidRequest(f"Expected parts with text, and nothing else: `{path}`.", param=path)
    return "\n".join(texts)


def write_answer(body: bytes, *, batch: bool) -> bytes:
    """Returns OpenAI's list of embeddings as the answer of batchEmbedContents, or its first as embedContent's."""
    answer = _OPENAI.decode(body)
    found = [{"values": each.embedding} for each in sorted(answer.data, key=lambda each: each.index)]
    fields: dict[str, Any] = {"embeddings": found} if batch else {"embedding": found[0]}
    if answer.usage is not None:
        tokens = answer.usage.prompt_tokens
        fields["usageMetadata"] = {"promptTokenCount": tokens, "totalTokenCount": tokens}
    return encode(fields)


def path(model: str) -> str:
    """Returns the path of a vendor's embeddings, behind the version."""
    return f"/{quote(_resource(model), safe='/-._~')}:batchEmbedContents"


def _resource(model: str) -> str:
    return model if "/" in model else f"models/{model}"


def encode_embeddings(request: EmbedRequest, model: str) -> bytes:
    """Returns the body of batchEmbedContents for a request in OpenAI's shape. Raises `Untranslatable` for token ids."""
    texts = [request.input] if isinstance(request.input, str) else request.input
    if not all(isinstance(text, str) for text in texts):
        raise Untranslatable(f"`input` must be text for the model {request.model}, not token ids.", param="input")
    name = _resource(model)
    shared: dict[str, Any] = {
        google: request.fields[name] for google, name in _SETTINGS.items() if name in request.fields
    }
    return encode({"requests": [{"model": name, "content": {"parts": [{"text": each}]}, **shared} for each in texts]})


def decode_embeddings(body: bytes, request: EmbedRequest) -> bytes:
    """Returns the answer of batchEmbedContents as OpenAI's list. Raises `ValueError` for what is none.

    Google says the tokens of an answer for its newer models only; without them an estimate is made.
    """
    answer = _GEMINI.decode(body)
    as_base64 = bytes(request.fields.get("encoding_format", b"")) == b'"base64"'
    data = [
        {"object": "embedding", "index": i, "embedding": _base64(each.values) if as_base64 else each.values}
        for i, each in enumerate(answer.embeddings)
    ]
    fields: dict[str, Any] = {"object": "list", "data": data, "model": request.model}
    if answer.usage_metadata is not None:
        tokens = read_usage(answer.usage_metadata).prompt_tokens
        fields["usage"] = {"prompt_tokens": tokens, "total_tokens": tokens}
    return encode(fields)


def _base64(values: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()

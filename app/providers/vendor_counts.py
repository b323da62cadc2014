"""Vendors' own token counts: the endpoint that each dialect has for them, and the reading of its answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec

from app.domain.body import encode
from app.domain.generation import DialectName

# Of a translated request, what the endpoint takes: the rest is about the answer.
_MESSAGES_FIELDS = ("model", "messages", "system", "tools", "tool_choice", "thinking", "output_config", "mcp_servers")
_RESPONSES_FIELDS = (
    "model",
    "input",
    "instructions",
    "tools",
    "tool_choice",
    "text",
    "reasoning",
    "parallel_tool_calls",
    "truncation",
)
_GEMINI_FIELDS = ("contents", "systemInstruction", "tools", "toolConfig", "generationConfig")


class VendorCount(NamedTuple):
    """A vendor's count of a prompt's tokens, and its answer as it came: b"" for callers of other dialects."""

    tokens: int
    body: bytes


class CountEndpoint(NamedTuple):
    """The endpoint of one dialect. `path` may have a place for the model's name, `counter` is the answer's field."""

    path: str
    fields: tuple[str, ...]
    counter: str
    body: Callable[[str, Mapping[str, Any]], bytes]

    def path_of(self, model: str) -> str:
        return self.path.format(model=quote(_resource(model), safe="/-._~"))

    def translated_body(self, model: str, request: Mapping[str, Any]) -> bytes:
        """Returns the body that asks for the count of a request that was encoded for the vendor."""
        return self.body(model, {name: request[name] for name in self.fields if name in request})

    def read(self, answer: bytes) -> VendorCount:
        """Raises `ValueError` for an answer without the count."""
        try:
            tokens = msgspec.json.decode(answer)[self.counter]
        except (TypeError, LookupError):
            tokens = None
        if not isinstance(tokens, int) or tokens < 0:
            raise ValueError(f"no {self.counter}")
        return VendorCount(tokens, answer)


def _with_model(model: str, fields: Mapping[str, Any]) -> bytes:
    return encode({**fields, "model": model})


def _wrapped(model: str, fields: Mapping[str, Any]) -> bytes:
    return encode({"generateContentRequest": {**fields, "model": _resource(model)}})


def _resource(model: str) -> str:
    """Returns Google's name of a model; one in a folder (`tunedModels/x`) is none of `models`."""
    return model if "/" in model else f"models/{model}"


COUNT_ENDPOINTS: dict[DialectName, CountEndpoint] = {
    "messages": CountEndpoint("/messages/count_tokens", _MESSAGES_FIELDS, "input_tokens", _with_model),
    "responses": CountEndpoint("/responses/input_tokens", _RESPONSES_FIELDS, "input_tokens", _with_model),
    "gemini": CountEndpoint("/{model}:countTokens", _GEMINI_FIELDS, "totalTokens", _wrapped),
}

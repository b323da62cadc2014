"""Chat completions that pass untouched: what admission and accounting read of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from app.domain.body import encode_fields
from app.domain.generation import GenerationRequest
from app.domain.usage import Usage
from app.providers.dialects.chat.carriers import MARK, open_carriers
from app.providers.dialects.chat.errors import reported_error
from app.providers.dialects.dialect import Outgoing, Reported
from app.providers.dialects.openai_usage import WireUsage, to_usage

_MAX_TOKENS_FIELDS = ("max_tokens", "max_completion_tokens")
_DONE = b"data: [DONE]\n\n"


class _Completion(msgspec.Struct, frozen=True):
    choices: list[msgspec.Raw]
    usage: WireUsage | None = None
    service_tier: str | None = None


class _Choices(msgspec.Struct, frozen=True):
    choices: list[msgspec.Raw]


class _Function(msgspec.Struct, frozen=True):
    arguments: str | None = None


class _CustomTool(msgspec.Struct, frozen=True):
    input: str | None = None


class _ToolCall(msgspec.Struct, frozen=True):
    function: _Function | None = None
    custom: _CustomTool | None = None


class _Delta(msgspec.Struct, frozen=True):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct, frozen=True):
    delta: _Delta | None = None


class _Chunk(msgspec.Struct, frozen=True):
    choices: list[_Choice] | None = None
    usage: WireUsage | None = None
    service_tier: str | None = None
    error: object = None


_decode_completion = msgspec.json.Decoder(_Completion).decode
_decode_choices = msgspec.json.Decoder(_Choices).decode
_decode_chunk = msgspec.json.Decoder(_Chunk).decode


def pass_request(request: GenerationRequest, outgoing: Outgoing) -> bytes:
    """Returns the request's body with the model, the bound on tokens and, in a stream, usage asked for."""
    changes: dict[str, Any] = {}
    if outgoing.stream and not request.include_usage:
        # Always asks for usage: the ledger needs it, whether the client wants to see it or not.
        changes["stream_options"] = _stream_options(request.fields)
    if request.model != outgoing.model:
        changes["model"] = outgoing.model
    if MARK in request.raw:
        changes["messages"] = open_carriers(bytes(request.fields["messages"]), outgoing.origin)
    if outgoing.max_output_tokens is None:
        return encode_fields(request.fields, changes)
    # Both bounds at once are refused by some providers, and some know only one of them.
    changes[outgoing.max_tokens_field] = outgoing.max_output_tokens
    return encode_fields(request.fields, changes, drop=_MAX_TOKENS_FIELDS)


def read_answer(body: bytes) -> Reported:
    """Returns what a completion says of its cost. Raises `ValueError` for a body that is none."""
    try:
        answer = _decode_completion(body)
    except msgspec.ValidationError:
        # Perhaps usage of another shape: it is still an answer, and was paid for.
        answer = _Completion(choices=_decode_choices(body).choices)
    except RecursionError as exc:
        raise ValueError("The completion is nested too deeply.") from exc
    if answer.usage is None:
        return Reported(None, _count_text_bytes(body))
    return Reported(to_usage(answer.usage, answer.service_tier))


class ChatWatch:
    """A stream of chunks that passes untouched. See `dialect.Watch`."""

    def __init__(self, request: GenerationRequest) -> None:
        self.usage: Usage | None = None
        self.prompt_usage: Usage | None = None  # usage comes at the end, or not at all
        self.text_bytes = 0
        self.chunks = 0
        self.started = False
        self.complete = False
        self.ending = _DONE
        self._include_usage = request.include_usage
        self._service_tier: str | None = None

    def see(self, name: str, payload: bytes) -> bool:
        """Records a chunk, and returns True if the client gets it: a chunk of usage only if it asked for that."""
        if self.complete or not payload:
            return False
        if payload == b"[DONE]":
            self.complete = True
            return False
        try:
            chunk = _decode_chunk(payload)
        except (ValueError, RecursionError):
            return self._see_unusual(payload)
        if chunk.error is not None:
            raise reported_error(payload)
        self._count(chunk)
        if not self.started:
            self.started = _has_content(payload)
        return bool(chunk.choices) or chunk.usage is None or self._include_usage

    def end(self) -> None:
        """A body that ends without `[DONE]` was cut."""

    def _see_unusual(self, payload: bytes) -> bool:
        """Accepts JSON of another shape, or with half of a surrogate pair: it is counted by its length."""
        try:
            chunk = json.loads(payload)
        except (ValueError, RecursionError):
            chunk = None
        if not isinstance(chunk, dict):
            raise ValueError("A chunk is no JSON object.")
        if chunk.get("error") is not None:
            raise reported_error(payload)
        self.started = True
        self.chunks += 1
        self.text_bytes += len(payload)
        return True

    def _count(self, chunk: _Chunk) -> None:
        if chunk.service_tier is not None:
            self._service_tier = chunk.service_tier
        if chunk.usage is not None:
            self.usage = to_usage(chunk.usage, self._service_tier)
        for choice in chunk.choices or ():
            delta = choice.delta
            if delta is None:
                continue
            # Some vendors send the same reasoning under both names.
            reasoning = delta.reasoning_content or delta.reasoning
            size = _utf8_bytes(delta.content) + _utf8_bytes(reasoning) + _utf8_bytes(delta.refusal)
            for call in delta.tool_calls or ():
                if call.function is not None:
                    size += _utf8_bytes(call.function.arguments)
                elif call.custom is not None:
                    size += _utf8_bytes(call.custom.input)
            if size:
                self.chunks += 1
                self.text_bytes += size


def _has_content(payload: bytes) -> bool:
    """Says whether a chunk holds something of the answer: more than its role and empty fields, or its end."""
    try:
        choices = msgspec.json.decode(payload)["choices"] or ()
        return any(
            choice.get("finish_reason")
            or any(value for field, value in (choice.get("delta") or {}).items() if field != "role")
            for choice in choices
        )
    except (ValueError, KeyError):
        return False


def _stream_options(fields: Mapping[str, msgspec.Raw]) -> dict[str, Any]:
    """Returns the request's stream options, with usage asked for."""
    options = msgspec.json.decode(fields.get("stream_options", msgspec.Raw(b"null")))
    return {**(options or {}), "include_usage": True}


def _utf8_bytes(text: str | None) -> int:
    """Returns the text's length in UTF-8."""
    return 0 if not text else len(text) if text.isascii() else len(text.encode())


def _count_text_bytes(body: bytes) -> int:
    """Returns the length of the generated text and tool arguments of a completion without usage."""
    size = 0
    for choice in msgspec.json.decode(body)["choices"]:
        message: Any = choice.get("message") if isinstance(choice, dict) else None
        if not isinstance(message, dict):
            continue
        texts = [message.get("content"), message.get("refusal")]
        texts.append(message.get("reasoning_content") or message.get("reasoning"))
        for call in message.get("tool_calls") or ():
            for kind, field in (("function", "arguments"), ("custom", "input")):
                tool = call.get(kind) if isinstance(call, dict) else None
                texts.append(tool.get(field) if isinstance(tool, dict) else None)
        size += sum(len(str(text).encode("utf-8", "surrogatepass")) for text in texts if text)
    return size

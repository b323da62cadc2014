"""Responses that pass untouched: the request's few changes, and what accounting reads of the answer."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from app.domain.body import encode_fields
from app.domain.generation import GenerationRequest
from app.domain.usage import Usage
from app.errors import GatewayError
from app.providers.dialects import carrier
from app.providers.dialects.dialect import Outgoing
from app.providers.dialects.responses import request_in
from app.providers.dialects.responses.errors import failure, reported_failure
from app.providers.dialects.responses.items_out import KIND
from app.providers.dialects.responses.signatures import KEPT
from app.providers.dialects.responses.stream_out import sse
from app.providers.dialects.responses.usage import Billed, read_usage, to_billed_usage

_CARRIER = carrier.PREFIX.encode()
_PIECES = frozenset(
    {
        "response.output_text.delta",
        "response.refusal.delta",
        "response.reasoning_text.delta",
        "response.reasoning_summary_text.delta",
        "response.function_call_arguments.delta",
        "response.custom_tool_call_input.delta",
        "response.mcp_call_arguments.delta",
        "response.code_interpreter_call_code.delta",
    }
)
# Events before which the vendor has done nothing yet: another target can still take over after them.
_PREAMBLE = frozenset(
    {
        "response.created",
        "response.queued",
        "response.in_progress",
        "response.content_part.added",
        "response.reasoning_summary_part.added",
    }
)
_EMPTY_ITEMS = frozenset({"message", "reasoning", "function_call", "custom_tool_call"})
_TERMINAL = frozenset({"response.completed", "response.incomplete"})
_FAILED = frozenset({"response.failed", "response.cancelled", "error"})


class _Piece(msgspec.Struct, frozen=True):
    delta: str


class _Typed(msgspec.Struct, frozen=True):
    type: str = ""


class _Added(msgspec.Struct, frozen=True):
    item: _Typed


class _Terminal(msgspec.Struct, frozen=True):
    response: Billed


class _Numbered(msgspec.Struct, frozen=True):
    sequence_number: int = -1


_decode_piece = msgspec.json.Decoder(_Piece).decode
_decode_type = msgspec.json.Decoder(_Typed).decode
_decode_added = msgspec.json.Decoder(_Added).decode
_decode_terminal = msgspec.json.Decoder(_Terminal).decode
_decode_number = msgspec.json.Decoder(_Numbered).decode
_encode = msgspec.json.Encoder().encode


def pass_request(request: GenerationRequest, outgoing: Outgoing) -> bytes:
    """Returns the request's body with the model and the bound on tokens, and without what other vendors wrote."""
    changes: dict[str, Any] = {}
    if request.model != outgoing.model:
        changes["model"] = outgoing.model
    if outgoing.max_output_tokens is not None:
        changes["max_output_tokens"] = outgoing.max_output_tokens
    given = request.fields.get("input")
    if given is not None and _CARRIER in bytes(given):
        changes["input"] = _without_carriers(msgspec.json.decode(given), outgoing)
    return encode_fields(request.fields, changes, drop=request_in.served_by_gateway(request))


def _without_carriers(items: Any, outgoing: Outgoing) -> Any:
    """Returns the items with this vendor's own reasoning as it wrote it, and without that of others."""
    if not isinstance(items, list):
        return items
    kept: list[Any] = []
    has_budget = outgoing.max_output_tokens is not None
    is_incomplete = False
    for item in items:
        opaque = carrier.unpack(item.get(KIND)) if isinstance(item, dict) and item.get("type") == "reasoning" else None
        if opaque is None:
            kept.append(item)
        elif has_budget and not opaque.data:
            # The vendor would put its own copy into the prompt, of a length that nobody has reserved money for.
            outgoing.leave_out("thinking")
            is_incomplete = True
        elif opaque.origin == outgoing.origin and opaque.kind == KEPT:
            kept.append({name: value for name, value in item.items() if name != KIND})
        elif opaque.origin == outgoing.origin and opaque.kind == KIND:
            kept.append({**item, KIND: opaque.data, **({"id": opaque.id} if opaque.id else {})})
        else:
            outgoing.leave_out("thinking")
    return [_without_id(item) for item in kept] if is_incomplete else kept


def _without_id(item: Any) -> Any:
    """Returns the item as one that the vendor has not seen: it misses no reasoning before such a one."""
    return {name: value for name, value in item.items() if name != "id"} if isinstance(item, dict) else item


class ResponsesWatch:
    """A stream that passes untouched. See `dialect.Watch`."""

    def __init__(self, request: GenerationRequest) -> None:
        self.usage: Usage | None = None
        self.prompt_usage: Usage | None = None
        self.text_bytes = 0
        self.chunks = 0
        self.started = False
        self.complete = False
        self._created = self._last = b""
        self._ending = b""

    def see(self, name: str, payload: bytes) -> bool:
        if not payload or payload == b"[DONE]":
            return False  # some vendors end every stream as chat completions do; clients of this dialect do not
        kind = name or _type(payload)
        if self.complete:
            self._ending += sse(kind, payload)
            return False
        if kind in _FAILED:
            raise reported_failure(_failed_response(payload), payload)
        if kind in _TERMINAL:
            self._finish(kind, payload)
            return False
        self._last = payload
        if kind in _PIECES:
            self._count(payload)
        elif kind == "response.created":
            self._created = payload
        elif kind not in _PREAMBLE and not (kind == "response.output_item.added" and _is_empty_item(payload)):
            self.started = True
        return True

    def end(self) -> None:
        """A body that ends without a terminal event was cut."""

    @property
    def ending(self) -> bytes:
        return self._ending

    def failed(self, error: GatewayError) -> bytes:
        """Returns the event that ends the stream with an error, as the one after the last."""
        return failed_event(error, _response(self._created), _number(self._last) + 1)

    def _count(self, payload: bytes) -> None:
        try:
            delta = _decode_piece(payload).delta
            size = len(delta) if delta.isascii() else len(delta.encode())
        except (msgspec.DecodeError, RecursionError):
            # Another shape, or half of a surrogate pair: it is counted by its length.
            if not isinstance(json.loads(payload), dict):
                raise ValueError("an event is no JSON object") from None
            size = len(payload)
        self.started = True
        if size:
            self.chunks += 1
            self.text_bytes += size

    def _finish(self, kind: str, payload: bytes) -> None:
        try:
            self.usage = to_billed_usage(_decode_terminal(payload).response)
        except (msgspec.DecodeError, RecursionError):
            self.usage = read_usage(_response(payload))
        self.started = self.complete = True
        self._ending = sse(kind, payload)


def error_event(error: GatewayError, request_id: str, stream: object) -> bytes:
    """Returns the event that ends a stream which broke off: `response.failed`, after the events so far."""
    fail = getattr(stream, "failed", None)
    if fail is not None:
        failed: bytes = fail(error)
        return failed
    # Clients refuse a stream that does not begin with it.
    response = _blank(request_id)
    created = _encode({"type": "response.created", "sequence_number": 0, "response": response})
    return sse("response.created", created) + failed_event(error, response, 1)


def failed_event(error: GatewayError, response: dict[str, Any], number: int) -> bytes:
    """Returns the event for an error; `response` is what is known of it."""
    failed = {**(response or _blank("")), "status": "failed", "error": failure(error)}
    return sse("response.failed", _encode({"type": "response.failed", "sequence_number": number, "response": failed}))


def _blank(request_id: str) -> dict[str, Any]:
    """Returns a response object of which nothing is known."""
    return {
        "id": f"resp_{request_id}",
        "object": "response",
        "created_at": 0,
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "model": "",
        "output": [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": None,
    }


def _type(payload: bytes) -> str:
    kind = _decode_type(payload).type
    if not kind:
        raise ValueError("an event without a type")
    return kind


def _is_empty_item(payload: bytes) -> bool:
    try:
        return _decode_added(payload).item.type in _EMPTY_ITEMS
    except (msgspec.DecodeError, RecursionError):
        return False


def _response(payload: bytes) -> dict[str, Any]:
    try:
        event = json.loads(payload)
    except (ValueError, RecursionError):
        return {}
    response = event.get("response") if isinstance(event, dict) else None
    return response if isinstance(response, dict) else {}


def _failed_response(payload: bytes) -> dict[str, Any]:
    response = _response(payload)
    if response:
        return response
    try:
        event = json.loads(payload)
    except (ValueError, RecursionError):
        return {}
    return event if isinstance(event, dict) else {}


def _number(payload: bytes) -> int:
    try:
        return _decode_number(payload).sequence_number
    except (msgspec.DecodeError, RecursionError):
        return -1

"""Answers of Gemini on the wire, whole ones and the chunks of streamed ones.

Source: Google's API reference, "GenerateContentResponse".
"""

from __future__ import annotations

import json
from typing import Any

import msgspec


class WireBlob(msgspec.Struct, frozen=True, rename="camel"):
    mime_type: str = ""
    data: str = ""


class WireCall(msgspec.Struct, frozen=True, rename="camel"):
    name: str | None = None
    id: str | None = None
    args: msgspec.Raw = msgspec.Raw(b"")
    partial_args: list[dict[str, Any]] | None = None
    will_continue: bool | None = None


class WirePart(msgspec.Struct, frozen=True, rename="camel"):
    text: str | None = None
    thought: bool | None = None
    thought_signature: str | None = None
    function_call: WireCall | None = None
    inline_data: WireBlob | None = None
    executable_code: dict[str, Any] | None = None
    code_execution_result: dict[str, Any] | None = None
    tool_call: dict[str, Any] | None = None
    tool_response: dict[str, Any] | None = None


class WireContent(msgspec.Struct, frozen=True):
    parts: list[WirePart] | None = None


class _Grounding(msgspec.Struct, frozen=True, rename="camel"):
    web_search_queries: list[str] | None = None
    grounding_chunks: list[dict[str, Any]] | None = None


class WireCandidate(msgspec.Struct, frozen=True, rename="camel"):
    content: WireContent | None = None
    finish_reason: str | None = None
    finish_message: str | None = None
    index: int | None = None
    logprobs_result: dict[str, Any] | None = None
    grounding_metadata: _Grounding | None = None


class _Feedback(msgspec.Struct, frozen=True, rename="camel"):
    block_reason: str | None = None


class WireAnswer(msgspec.Struct, frozen=True, rename="camel"):
    """The response, or a chunk of a streamed one."""

    candidates: list[WireCandidate] | None = None
    prompt_feedback: _Feedback | None = None
    usage_metadata: msgspec.Raw = msgspec.Raw(b"")
    model_version: str | None = None
    response_id: str | None = None
    create_time: str | None = None
    error: msgspec.Raw = msgspec.Raw(b"")

    @property
    def block_reason(self) -> str:
        """The reason for which the prompt was blocked, if it was and there is no candidate."""
        feedback = self.prompt_feedback
        return (feedback.block_reason or "") if feedback is not None and not self.candidates else ""

    def first(self) -> WireCandidate | None:
        """The candidate that other dialects can show."""
        return next((each for each in self.candidates or () if not each.index), None)


_decode = msgspec.json.Decoder(WireAnswer).decode


def decode_wire(payload: bytes) -> WireAnswer:
    """Returns a response or a chunk. Raises `ValueError`. Half of a surrogate pair becomes a question mark."""
    try:
        return _decode(payload)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        if b"\\u" not in payload:
            raise
        try:
            return _decode(json.dumps(json.loads(payload), ensure_ascii=False).encode("utf-8", "replace"))
        except RecursionError as exc:
            raise ValueError("a response that is nested too deep") from exc

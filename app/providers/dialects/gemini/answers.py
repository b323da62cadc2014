"""Whole answers of Gemini: read into the neutral form, and written from it.

Source: Google's API reference, "GenerateContentResponse", and the google-genai package.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import msgspec

from app.domain.content import (
    Answer,
    Audio,
    Block,
    Document,
    Image,
    Opaque,
    Refusal,
    ServerTool,
    Source,
    Stop,
    Text,
    Thinking,
    ToolCall,
)
from app.domain.usage import Usage
from app.providers.dialects.dialect import Framing
from app.providers.dialects.gemini import signatures
from app.providers.dialects.gemini.arguments import to_args
from app.providers.dialects.gemini.finish import failed, read_reason, write_reason
from app.providers.dialects.gemini.logprobs import read_logprobs, write_logprobs
from app.providers.dialects.gemini.usage import WireUsage, read_usage, write_usage
from app.providers.dialects.tool_ids import AnswerIds, IdRule

encode = msgspec.json.Encoder().encode


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
    usage_metadata: WireUsage | None = None
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


def count_searches(wire: WireAnswer) -> int:
    """Returns the number of web searches."""
    return sum(
        len(each.grounding_metadata.web_search_queries or ())
        for each in wire.candidates or ()
        if each.grounding_metadata is not None
    )


def uses_maps(wire: WireAnswer) -> bool:
    """Tells if the answer is grounded with Google Maps, which is billed at a price that no answer tells."""
    return any(
        "maps" in chunk
        for each in wire.candidates or ()
        if each.grounding_metadata is not None
        for chunk in each.grounding_metadata.grounding_chunks or ()
    )


def usage_of(wire: WireAnswer, before: Usage | None = None) -> Usage | None:
    """Returns what the answer, or a stream up to this chunk, has cost; `before` is that of the chunks before.

    Google tells of searches in one chunk, and counts tokens in all.
    """
    if wire.usage_metadata is None:
        return before
    searches = max(count_searches(wire), before.searches if before is not None else 0)
    usage = read_usage(wire.usage_metadata, searches)
    if uses_maps(wire) or (before is not None and before.unpriced):
        usage = usage._replace(unpriced=True)
    return usage


def decode_answer(body: bytes, origin: str) -> Answer:
    """Returns the answer. Raises `ValueError` for what is none: without a candidate, or with one that failed."""
    wire = decode_wire(body)
    usage = usage_of(wire)
    candidate = wire.first()
    blocks: list[Block] = []
    if candidate is None:
        if not wire.block_reason:
            raise ValueError("a response without candidates")
        stop, native, logprobs = read_reason("SAFETY", False), wire.block_reason, None
    else:
        native = candidate.finish_reason or ""
        if failed(native):
            raise ValueError(f"a response that ended with {native}")
        for part in candidate.content.parts or () if candidate.content is not None else ():
            add_part(part, origin, blocks)
        stop = read_reason(native, any(isinstance(block, ToolCall) for block in blocks))
        logprobs = read_logprobs(candidate.logprobs_result)
    return Answer(
        id=wire.response_id or "",
        model=wire.model_version or "",
        created=read_time(wire.create_time),
        blocks=tuple(blocks),
        stop=stop,
        native_stop=native,
        usage=usage,
        service_tier=usage.service_tier if usage is not None else "",
        logprobs=logprobs,
    )


def read_time(text: str | None) -> int:
    """Returns a time of Google's in Unix seconds; 0 for none."""
    try:
        return int(datetime.fromisoformat(text).timestamp()) if text else 0
    except (ValueError, OverflowError):
        return 0


def add_part(part: WirePart, origin: str, blocks: list[Block]) -> None:
    """Adds what the part stands for. The signature of a text becomes thinking without a text, after it."""
    signature = Opaque(origin, signatures.KIND, part.thought_signature) if part.thought_signature else None
    if part.function_call is not None:
        call = part.function_call
        blocks.append(ToolCall(id=call.id or "", name=call.name or "", arguments=read_args(call), signature=signature))
    elif part.thought:
        last = blocks[-1] if blocks else None
        if isinstance(last, Thinking) and last.text and last.signature is None:
            blocks[-1] = Thinking(text=last.text + (part.text or ""), signature=signature)
        elif part.text or signature is not None:
            blocks.append(Thinking(text=part.text or "", signature=signature))
    else:
        other = read_other(part)
        if other is not None:
            blocks.append(other)
        elif part.text:
            last = blocks[-1] if blocks else None
            if isinstance(last, Text):
                blocks[-1] = Text(text=last.text + part.text)
            else:
                blocks.append(Text(text=part.text))
        if signature is not None:
            blocks.append(Thinking(signature=signature))


def read_args(call: WireCall) -> str:
    """Returns the arguments as JSON text; "" for none."""
    text = bytes(call.args).decode()
    return "" if text in ("", "null") else text


def read_other(part: WirePart) -> Block | None:
    """Returns a block that comes whole: media, or what a tool of Google's did; None for text."""
    if part.inline_data is not None:
        blob = part.inline_data
        source = Source(media_type=blob.mime_type, data=blob.data)
        family = blob.mime_type.partition("/")[0]
        if family == "audio":
            return Audio(source=source)
        return Image(source=source) if family == "image" else Document(source=source)
    for name, value in (
        ("executableCode", part.executable_code),
        ("codeExecutionResult", part.code_execution_result),
        ("toolCall", part.tool_call),
        ("toolResponse", part.tool_response),
    ):
        if value is not None:
            return ServerTool(dialect="gemini", value={name: value})
    return None


def encode_answer(answer: Answer, framing: Framing) -> bytes:
    """Returns the response. Arguments that are no object make it a malformed call, which clients know to ask again."""
    ids = AnswerIds(IdRule(), framing.call_id)
    parts: list[dict[str, Any]] = []
    thinking: list[Thinking] = []
    broken = False
    for block in answer.blocks:
        if isinstance(block, ToolCall):
            part = write_call(block, ids.next(block.id), thinking)
            if part is None:
                broken = True
                continue
        else:
            part = write_block(block)
            if part is None:
                continue
            if isinstance(block, Thinking):
                thinking.append(block)
        if isinstance(block, ToolCall):
            thinking = []
        parts.append(part)
    candidate: dict[str, Any] = {
        "content": {"parts": parts, "role": "model"} if parts else {"role": "model"},
        **write_finish(answer.stop, broken),
        "index": 0,
    }
    if answer.logprobs:
        candidate["logprobsResult"] = write_logprobs(answer.logprobs)
    body: dict[str, Any] = {"candidates": [candidate]}
    if answer.usage is not None:
        body["usageMetadata"] = write_usage(answer.usage)
    return encode({**body, "modelVersion": answer.model, "responseId": answer.id or framing.call_id})


def write_finish(stop: Stop, broken: bool) -> dict[str, Any]:
    """Returns the fields of a candidate that say how it ended. `broken`: a call's arguments are no object."""
    if broken and stop != "length":
        return {"finishReason": "MALFORMED_FUNCTION_CALL", "finishMessage": "The arguments of a call are no object."}
    found = {"finishReason": write_reason(stop)}
    if stop in ("refusal", "pause", "context_window"):
        found["finishMessage"] = stop
    return found


def write_call(call: ToolCall, tool_id: str, thinking: list[Thinking]) -> dict[str, Any] | None:
    """Returns the part of a call after `thinking`; None if its arguments are no object."""
    args: Any = {"input": call.arguments} if call.custom else to_args(call.arguments)
    if args is None:
        return None
    part: dict[str, Any] = {"functionCall": {"id": tool_id, "name": call.name, "args": args}}
    signature = signatures.write_call(call, thinking)
    if signature is not None:
        part["thoughtSignature"] = signature
    return part


def write_block(block: Block) -> dict[str, Any] | None:
    """Returns the part of a block that is no call; None for what Gemini's answers have no part for."""
    if isinstance(block, Text | Refusal):
        return {"text": block.text} if block.text else None
    if isinstance(block, Thinking):
        part: dict[str, Any] = {"text": block.text, "thought": True}
        if block.signature is not None:
            part["thoughtSignature"] = signatures.write(block.signature)
        return part if block.text or block.signature is not None else None
    if isinstance(block, Image | Audio | Document) and block.source.data is not None:
        return {"inlineData": {"mimeType": block.source.media_type, "data": block.source.data}}
    return None

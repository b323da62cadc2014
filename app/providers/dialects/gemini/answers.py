"""Whole answers of Gemini: read into the neutral form, and written from it.

Source: Google's API reference, "GenerateContentResponse", and the google-genai package.
"""

from __future__ import annotations

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
from app.providers.dialects.dialect import Framing
from app.providers.dialects.gemini import signatures
from app.providers.dialects.gemini.arguments import to_args
from app.providers.dialects.gemini.finish import failed, read_reason, write_reason
from app.providers.dialects.gemini.logprobs import read_logprobs, write_logprobs
from app.providers.dialects.gemini.running_usage import usage_of
from app.providers.dialects.gemini.usage import write_usage
from app.providers.dialects.gemini.wire import WireCall, WirePart, decode_wire
from app.providers.dialects.tool_ids import AnswerIds, IdRule

encode = msgspec.json.Encoder().encode


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

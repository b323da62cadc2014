"""Completions, to and from the neutral form."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from app.domain.body import encode
from app.domain.content import Answer, Audio, Block, Image, Opaque, Refusal, Source, Text, Thinking, ToolCall
from app.domain.usage import Usage
from app.providers.dialects.carrier import pack
from app.providers.dialects.chat.history import THOUGHT_SIGNATURE, arguments_text
from app.providers.dialects.chat.parts import source_url, url_source
from app.providers.dialects.chat.request import TOOL_IDS
from app.providers.dialects.chat.stops import FAILURES, decode_stop, encode_stop
from app.providers.dialects.chat.thinking import decode_thinking, encode_block
from app.providers.dialects.dialect import Framing
from app.providers.dialects.openai_usage import WireUsage, encode_usage, to_usage
from app.providers.dialects.tool_ids import AnswerIds

SERVICE_TIERS = frozenset({"auto", "default", "flex", "scale", "priority", "fast"})


def decode_answer(body: bytes, origin: str) -> Answer:
    """Returns the completion in `body`: its first choice. Raises `ValueError` for a body that is none."""
    try:
        completion: Any = msgspec.json.decode(body)
    except RecursionError as exc:
        raise ValueError("The completion is nested too deeply.") from exc
    choice = first(completion.get("choices")) if isinstance(completion, dict) else None
    if choice is None:
        raise ValueError("The completion has no choice.")
    message = choice.get("message")
    blocks = decode_message(message, origin) if isinstance(message, dict) else []
    reason = text_of(choice, "finish_reason")
    if reason in FAILURES or choice.get("error"):
        raise ValueError("The completion failed.")
    stop, native = decode_stop(reason, has_calls=has(blocks, ToolCall), has_refusal=has(blocks, Refusal))
    tier = text_of(completion, "service_tier")
    return Answer(
        id=text_of(completion, "id"),
        model=text_of(completion, "model"),
        blocks=tuple(blocks),
        stop=stop,
        native_stop=native,
        created=int_of(completion, "created"),
        usage=decode_usage(completion.get("usage"), tier),
        service_tier=tier,
        logprobs=decode_logprobs(choice),
    )


def decode_message(message: dict[str, Any], origin: str) -> list[Block]:
    """Returns the blocks of a whole message. What has another shape than any known vendor's is passed over."""
    blocks = decode_thinking(message, origin)
    for kind, text in content_texts(message.get("content")):
        blocks.append(Thinking(text=text) if kind == "thinking" else Text(text=text))
    if refusal := text_of(message, "refusal"):
        blocks.append(Refusal(text=refusal))
    blocks += media(message)
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        if isinstance(call, dict):
            blocks.append(decode_call(call, origin))
    legacy = message.get("function_call")
    if isinstance(legacy, dict) and not calls:
        blocks.append(decode_call({"function": legacy}, origin))
    return blocks


def decode_call(call: dict[str, Any], origin: str) -> ToolCall:
    """Returns a tool call of a vendor's."""
    custom = call.get("custom")
    found = custom if isinstance(custom, dict) else call.get("function")
    tool: dict[str, Any] = found if isinstance(found, dict) else {}
    is_custom = isinstance(custom, dict)
    arguments = text_of(tool, "input") if is_custom else arguments_text(tool.get("arguments"))
    return ToolCall(
        id=text_of(call, "id"),
        name=text_of(tool, "name"),
        arguments=arguments,
        custom=is_custom,
        signature=thought_signature(call, origin),
    )


def thought_signature(call: dict[str, Any], origin: str) -> Opaque | None:
    """Returns the signature of a call that Google's endpoint of this dialect writes."""
    extra = call.get("extra_content")
    google = extra.get("google") if isinstance(extra, dict) else None
    signature = google.get(THOUGHT_SIGNATURE) if isinstance(google, dict) else None
    return Opaque(origin, THOUGHT_SIGNATURE, signature) if isinstance(signature, str) and signature else None


def content_texts(content: object) -> Iterator[tuple[str, str]]:
    """Yields each text of a content, with its kind: text or thinking. Mistral writes both as parts."""
    if isinstance(content, str):
        if content:
            yield "text", content
    elif isinstance(content, list):
        for part in content:
            if not isinstance(part, dict):
                continue
            thought = part.get("thinking")
            if isinstance(thought, list | str):
                joined = "".join(text for _, text in content_texts(thought))
                if joined:
                    yield "thinking", joined
            elif text := text_of(part, "text"):
                yield "text", text


def media(message: dict[str, Any]) -> list[Block]:
    """Returns the sound of an answer (OpenAI) and its pictures (OpenRouter)."""
    blocks: list[Block] = []
    audio, images = message.get("audio"), message.get("images")
    if isinstance(audio, dict) and (data := text_of(audio, "data")):
        blocks.append(Audio(source=Source(data=data), transcript=text_of(audio, "transcript")))
    for image in images if isinstance(images, list) else ():
        url = image.get("image_url") if isinstance(image, dict) else None
        if isinstance(url, dict) and text_of(url, "url"):
            blocks.append(Image(source=url_source(url["url"])))
    return blocks


def decode_usage(usage: object, tier: str) -> Usage | None:
    """Returns the usage in a completion or chunk; None for one of no known shape."""
    if usage is None:
        return None
    try:
        return to_usage(msgspec.convert(usage, WireUsage), tier)
    except msgspec.ValidationError:
        return None


def decode_logprobs(choice: dict[str, Any]) -> list[Any] | None:
    """Returns the log probabilities of the tokens of text."""
    logprobs = choice.get("logprobs")
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    return content if isinstance(content, list) else None


def first(choices: object) -> dict[str, Any] | None:
    """Returns the first choice; None if there is none."""
    found = choices[0] if isinstance(choices, list) and choices else None
    return found if isinstance(found, dict) else None


def has(blocks: Iterable[Block], kind: type[Block]) -> bool:
    """Says whether one of the blocks is of this kind."""
    return any(isinstance(block, kind) for block in blocks)


def text_of(fields: dict[str, Any], name: str) -> str:
    """Returns a text; "" for anything else."""
    value = fields.get(name)
    return value if isinstance(value, str) else ""


def int_of(fields: dict[str, Any], name: str) -> int:
    """Returns an integer; 0 for anything else."""
    value = fields.get(name)
    return value if type(value) is int else 0


def encode_answer(answer: Answer, framing: Framing) -> bytes:
    """Returns `answer` as a completion."""
    choice: dict[str, Any] = {
        "index": 0,
        "message": _encode_message(answer.blocks, framing.call_id),
        "logprobs": None if answer.logprobs is None else {"content": answer.logprobs, "refusal": None},
        "finish_reason": encode_stop(answer.stop, has_refusal=has(answer.blocks, Refusal)),
    }
    if answer.native_stop:
        choice["native_finish_reason"] = answer.native_stop
    completion: dict[str, Any] = {
        "id": completion_id(framing),
        "object": "chat.completion",
        "created": answer.created or framing.created,
        "model": answer.model or framing.prompt.model,
        "choices": [choice],
    }
    if answer.usage is not None:
        completion["usage"] = encode_usage(answer.usage)
    if answer.service_tier in SERVICE_TIERS:
        completion["service_tier"] = answer.service_tier
    return encode(completion)


def completion_id(framing: Framing) -> str:
    """Returns the id of a completion: of our own call, since the vendor's is not of this dialect."""
    return f"chatcmpl-{framing.call_id}"


def _encode_message(blocks: tuple[Block, ...], call_id: str) -> dict[str, Any]:
    ids = AnswerIds(TOOL_IDS, call_id)
    texts: list[str] = []
    refusals: list[str] = []
    thinking: list[dict[str, Any]] = []
    fields: dict[str, Any] = {}
    annotations: list[dict[str, Any]] = []
    others = 0  # blocks but thinking
    for position, block in enumerate(blocks):
        match block:
            case Text():
                start = sum(map(len, texts))
                texts.append(block.text)
                annotations += annotate(block.citations, start, start + len(block.text))
            case Refusal():
                refusals.append(block.text)
            case Thinking():
                thinking.append(encode_block(block, position if others else None))
                continue
            case ToolCall():
                fields.setdefault("tool_calls", []).append(encode_call(block, ids.next(block.id)))
            case Image():
                fields.setdefault("images", []).append(encode_picture(block))
            case Audio():
                fields["audio"] = encode_sound(block, call_id)
        others += 1
    reasoning = "".join(block.text for block in blocks if isinstance(block, Thinking))
    if reasoning:
        fields["reasoning_content"] = reasoning
    if any("signature" in block or "data" in block for block in thinking):
        fields["thinking_blocks"] = thinking
    if annotations:
        fields["annotations"] = annotations
    return {
        "role": "assistant",
        "content": "".join(texts) if texts else None,
        "refusal": "".join(refusals) or None,
        **fields,
    }


def encode_call(call: ToolCall, call_id: str) -> dict[str, Any]:
    """Returns a whole tool call for a caller."""
    kind, field = ("custom", "input") if call.custom else ("function", "arguments")
    arguments = call.arguments if call.custom else call.arguments or "{}"
    encoded = {"id": call_id, "type": kind, kind: {"name": call.name, field: arguments}}
    if call.signature is not None:
        encoded |= encode_signature(call.signature)
    return encoded


def encode_signature(signature: Opaque) -> dict[str, Any]:
    """Returns the field of a tool call in which clients replay its signature."""
    return {"extra_content": {"google": {THOUGHT_SIGNATURE: pack(signature)}}}


def encode_picture(image: Image) -> dict[str, Any]:
    """Returns a generated picture as OpenRouter writes it."""
    return {"type": "image_url", "image_url": {"url": source_url(image.source) or ""}}


def encode_sound(sound: Audio, call_id: str) -> dict[str, Any]:
    """Returns generated sound."""
    return {
        "id": f"audio_{call_id}",
        "data": sound.source.data or "",
        "expires_at": 0,  # it is not kept
        "transcript": sound.transcript,
    }


def annotate(citations: tuple[Any, ...], start: int, end: int) -> list[dict[str, Any]]:
    """Returns the citations that name a page, of the text between two positions. There is no other kind here."""
    return [
        {
            "type": "url_citation",
            "url_citation": {
                "start_index": start,
                "end_index": end,
                "title": text_of(citation, "title"),
                "url": citation["url"],
            },
        }
        for citation in citations
        if isinstance(citation, dict) and text_of(citation, "url")
    ]

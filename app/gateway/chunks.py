"""Chunks: turns a whole completion into the stream of chunks that says the same, and back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from app.domain.usage import Details, Usage

DONE = b"data: [DONE]\n\n"
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.decode
_SHARED_FIELDS = ("id", "created", "model", "system_fingerprint", "service_tier")
_MAX_TOOL_CALLS = 128


def from_completion(completion: bytes, *, include_usage: bool) -> list[bytes]:
    """Returns the SSE events (without `[DONE]`) that stream `completion`, each marked `"cached": true`."""
    fields: dict[str, Any] = _decode(completion)
    base = {name: fields[name] for name in _SHARED_FIELDS if name in fields}
    base |= {"object": "chat.completion.chunk", "cached": True}
    if include_usage:
        base["usage"] = None
    events = []
    for choice in fields["choices"]:
        message = {k: v for k, v in (choice.get("message") or {}).items() if v is not None}
        for i, call in enumerate(message.get("tool_calls") or ()):
            call["index"] = i
        index = choice.get("index", 0)
        content = {"index": index, "delta": message, "finish_reason": None}
        if choice.get("logprobs") is not None:
            content["logprobs"] = choice["logprobs"]
        events.append({**base, "choices": [content]})
        finish_reason = choice.get("finish_reason") or "stop"
        events.append({**base, "choices": [{"index": index, "delta": {}, "finish_reason": finish_reason}]})
    if include_usage and fields.get("usage"):
        events.append({**base, "choices": [], "usage": fields["usage"]})
    return [b"data: " + _encode(event) + b"\n\n" for event in events]


def to_completion(blocks: Iterable[bytes], usage: Usage) -> bytes | None:
    """Returns the completion that the SSE `blocks` of a finished stream add up to; None if they make no whole one.

    Vendors send odd things. The client has had its stream by now, so an odd one is only not cached.
    """
    try:
        return _assemble(blocks, usage)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return None


def _assemble(blocks: Iterable[bytes], usage: Usage) -> bytes | None:
    completion: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    for event in b"".join(blocks).replace(b"\r\n", b"\n").split(b"\n\n"):
        data = b"\n".join(line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:"))
        if not data:
            continue
        chunk = _decode(data)
        if not completion:
            completion = {name: chunk[name] for name in _SHARED_FIELDS if name in chunk}
        for part in chunk.get("choices") or ():
            _merge(choices.setdefault(part.get("index", 0), {}), part)
    if not choices or any(choice.get("finish_reason") is None for choice in choices.values()):
        return None
    completion["object"] = "chat.completion"
    completion["choices"] = [{"index": i, **choices[i]} for i in sorted(choices)]
    completion["usage"] = _usage_fields(usage)
    return _encode(completion)


def _usage_fields(usage: Usage) -> dict[str, Any]:
    details = usage.details or Details()
    prompt = {
        "cache_write_tokens": details.cache_write_tokens,
        "audio_tokens": details.audio_prompt_tokens,
        "image_tokens": details.image_prompt_tokens,
        "video_tokens": details.video_prompt_tokens,
    }
    completion = {"audio_tokens": details.audio_completion_tokens, "image_tokens": details.image_completion_tokens}
    fields: dict[str, Any] = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens} | _nonzero(prompt),
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens} | _nonzero(completion),
    }
    if details.searches:
        fields["server_tool_use"] = {"web_search_requests": details.searches}
    return fields


def _nonzero(tokens: dict[str, int]) -> dict[str, int]:
    return {name: count for name, count in tokens.items() if count}


def _merge(choice: dict[str, Any], part: dict[str, Any]) -> None:
    message = choice.setdefault("message", {"role": "assistant", "content": None})
    for name, value in (part.get("delta") or {}).items():
        if name == "tool_calls":
            _merge_tool_calls(message.setdefault("tool_calls", []), value or ())
        elif name != "role" and isinstance(value, str):
            message[name] = (message.get(name) or "") + value
        elif value is not None:
            if message.get(name) not in (None, value):
                raise ValueError(f"pieces of {name} of a type that cannot be joined")
            message[name] = value
    logprobs = part.get("logprobs")
    if logprobs:
        merged = choice.setdefault("logprobs", {})
        for name, items in logprobs.items():
            merged[name] = (merged.get(name) or []) + (items or [])
    if part.get("finish_reason") is not None:
        choice["finish_reason"] = part["finish_reason"]


def _merge_tool_calls(calls: list[dict[str, Any]], parts: Iterable[dict[str, Any]]) -> None:
    for part in parts:
        index = part.get("index", len(calls))
        if not 0 <= index < _MAX_TOOL_CALLS:
            raise IndexError(index)
        while len(calls) <= index:
            calls.append({"id": None, "type": "function", "function": {"name": "", "arguments": ""}})
        call = calls[index]
        call["id"] = part.get("id") or call["id"]
        function = part.get("function") or {}
        call["function"]["name"] += function.get("name") or ""
        call["function"]["arguments"] += function.get("arguments") or ""

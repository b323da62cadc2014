"""One answer in its two shapes: a whole completion, and the stream of chunks that says the same."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from app.domain.money import Details, Usage

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.decode
_META = ("id", "created", "model", "system_fingerprint", "service_tier")
_MOST_TOOL_CALLS = 128


def from_completion(completion: bytes, *, include_usage: bool) -> list[bytes]:
    """The SSE events (without `[DONE]`) that stream `completion`, each marked `"cached": true`."""
    whole: dict[str, Any] = _decode(completion)
    base = {name: whole[name] for name in _META if name in whole}
    base |= {"object": "chat.completion.chunk", "cached": True}
    if include_usage:
        base["usage"] = None
    events = []
    for choice in whole["choices"]:
        message = {k: v for k, v in (choice.get("message") or {}).items() if v is not None}
        for i, call in enumerate(message.get("tool_calls") or ()):
            call["index"] = i
        index = choice.get("index", 0)
        head = {"index": index, "delta": message, "finish_reason": None}
        if choice.get("logprobs") is not None:
            head["logprobs"] = choice["logprobs"]
        events.append({**base, "choices": [head]})
        finish_reason = choice.get("finish_reason") or "stop"
        events.append({**base, "choices": [{"index": index, "delta": {}, "finish_reason": finish_reason}]})
    if include_usage and whole.get("usage"):
        events.append({**base, "choices": [], "usage": whole["usage"]})
    return [b"data: " + _encode(event) + b"\n\n" for event in events]


def to_completion(blocks: Iterable[bytes], usage: Usage) -> bytes | None:
    """The completion that the SSE `blocks` of a finished stream add up to; None if they make no whole one.

    Vendors send odd things; the client has had its stream by now, so an odd one is only not kept.
    """
    try:
        return _put_together(blocks, usage)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return None


def _put_together(blocks: Iterable[bytes], usage: Usage) -> bytes | None:
    whole: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    for event in b"".join(blocks).replace(b"\r\n", b"\n").split(b"\n\n"):
        data = b"\n".join(line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:"))
        if not data:
            continue
        chunk = _decode(data)
        if not whole:
            whole = {name: chunk[name] for name in _META if name in chunk}
        for part in chunk.get("choices") or ():
            _add(choices.setdefault(part.get("index", 0), {}), part)
    if not choices or any(choice.get("finish_reason") is None for choice in choices.values()):
        return None
    whole["object"] = "chat.completion"
    whole["choices"] = [{"index": i, **choices[i]} for i in sorted(choices)]
    whole["usage"] = _usage(usage)
    return _encode(whole)


def _usage(usage: Usage) -> dict[str, Any]:
    of = usage.details or Details()
    prompt = {
        "cache_write_tokens": of.cache_write_tokens,
        "audio_tokens": of.audio_prompt_tokens,
        "image_tokens": of.image_prompt_tokens,
        "video_tokens": of.video_prompt_tokens,
    }
    completion = {"audio_tokens": of.audio_completion_tokens, "image_tokens": of.image_completion_tokens}
    whole: dict[str, Any] = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens} | _some(prompt),
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens} | _some(completion),
    }
    if of.searches:
        whole["server_tool_use"] = {"web_search_requests": of.searches}
    return whole


def _some(tokens: dict[str, int]) -> dict[str, int]:
    return {name: count for name, count in tokens.items() if count}


def _add(choice: dict[str, Any], part: dict[str, Any]) -> None:
    message = choice.setdefault("message", {"role": "assistant", "content": None})
    for name, value in (part.get("delta") or {}).items():
        if name == "tool_calls":
            _add_tool_calls(message.setdefault("tool_calls", []), value or ())
        elif name != "role" and isinstance(value, str):
            message[name] = (message.get(name) or "") + value
        elif value is not None:
            if message.get(name) not in (None, value):
                raise ValueError(f"pieces of {name} that nobody knows how to join")
            message[name] = value
    logprobs = part.get("logprobs")
    if logprobs:
        merged = choice.setdefault("logprobs", {})
        for name, items in logprobs.items():
            merged[name] = (merged.get(name) or []) + (items or [])
    if part.get("finish_reason") is not None:
        choice["finish_reason"] = part["finish_reason"]


def _add_tool_calls(calls: list[dict[str, Any]], parts: Iterable[dict[str, Any]]) -> None:
    for part in parts:
        index = part.get("index", len(calls))
        if not 0 <= index < _MOST_TOOL_CALLS:
            raise IndexError(index)
        while len(calls) <= index:
            calls.append({"id": None, "type": "function", "function": {"name": "", "arguments": ""}})
        call = calls[index]
        call["id"] = part.get("id") or call["id"]
        function = part.get("function") or {}
        call["function"]["name"] += function.get("name") or ""
        call["function"]["arguments"] += function.get("arguments") or ""

"""Usage of Gemini: `usageMetadata` read as `Usage`, and written from it.

`promptTokenCount` includes what was cached, and not the results of tools that Google ran; `candidatesTokenCount` does
not include thoughts. Source: the google-genai package, its type of `usageMetadata`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from app.domain.usage import SERVICE_TIERS, Details, Usage

_MAX_TOKENS = 10**9


class _Modality(msgspec.Struct, frozen=True, rename="camel"):
    modality: object = None
    token_count: object = None


class WireUsage(msgspec.Struct, frozen=True, rename="camel"):
    """The object `usageMetadata` of a response. A count of an odd type is left out: the others still count."""

    prompt_token_count: object = None
    candidates_token_count: object = None
    response_token_count: object = None  # the Live API's word
    thoughts_token_count: object = None
    tool_use_prompt_token_count: object = None
    cached_content_token_count: object = None
    total_token_count: object = None
    prompt_tokens_details: list[_Modality] | None = None
    tool_use_prompt_tokens_details: list[_Modality] | None = None
    cache_tokens_details: list[_Modality] | None = None
    candidates_tokens_details: list[_Modality] | None = None
    service_tier: object = None
    traffic_type: object = None


def read_usage(wire: WireUsage, searches: int = 0) -> Usage:
    """Returns `wire` as `Usage`. Tokens of the total beyond all others are output."""
    tool_prompt, thoughts = _count(wire.tool_use_prompt_token_count), _count(wire.thoughts_token_count)
    prompt = _count(wire.prompt_token_count) + tool_prompt
    candidates = _count(wire.candidates_token_count) or _count(wire.response_token_count)
    total = _count(wire.total_token_count)
    # Servers that count thoughts among the candidates say so by their total.
    completion = candidates if thoughts and total == prompt + candidates >= prompt + thoughts else candidates + thoughts
    completion = max(completion, total - prompt)
    usage = Usage(
        prompt, completion, _count(wire.cached_content_token_count), thoughts, service_tier=_service_tier(wire)
    )
    details = _details(wire, searches)
    return usage if details is None else usage._replace(details=details)


def _details(wire: WireUsage, searches: int) -> Details | None:
    if not (wire.prompt_tokens_details or wire.candidates_tokens_details or searches or wire.cache_tokens_details):
        return None
    prompt = _by_modality(wire.prompt_tokens_details, wire.tool_use_prompt_tokens_details)
    cached, completion = _by_modality(wire.cache_tokens_details), _by_modality(wire.candidates_tokens_details)
    details = Details(
        audio_prompt_tokens=prompt.get("AUDIO", 0),
        audio_cached_tokens=cached.get("AUDIO", 0),
        audio_completion_tokens=completion.get("AUDIO", 0),
        image_prompt_tokens=prompt.get("IMAGE", 0),
        image_cached_tokens=cached.get("IMAGE", 0),
        image_completion_tokens=completion.get("IMAGE", 0),
        video_prompt_tokens=prompt.get("VIDEO", 0),
        video_completion_tokens=completion.get("VIDEO", 0),
        searches=searches,
    )
    return details if any(details) else None


def _by_modality(*lists: list[_Modality] | None) -> dict[object, int]:
    found: dict[object, int] = {}
    for each in lists:
        for item in each or ():
            if isinstance(item.modality, str):
                found[item.modality] = found.get(item.modality, 0) + _count(item.token_count)
    return found


def _service_tier(wire: WireUsage) -> str:
    """Returns the tier that was billed, in AI Studio's word or in Vertex AI's, such as ON_DEMAND_PRIORITY."""
    for value in (wire.service_tier, wire.traffic_type):
        if isinstance(value, str):
            name = value.lower().removeprefix("on_demand_").removeprefix("service_tier_")
            if name in SERVICE_TIERS:
                return name
    return ""


def _count(value: object) -> int:
    """Returns `value` if it is a number of tokens, which may be written as a string; 0 for anything else."""
    if type(value) is int and 0 <= value <= _MAX_TOKENS:
        return value
    if isinstance(value, str) and value.isdecimal() and len(value) < 10:
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0
    return int(min(max(value, 0), _MAX_TOKENS))


def write_usage(usage: Usage) -> dict[str, Any]:
    """Returns `usage` as Gemini writes it."""
    reasoning = min(usage.reasoning_tokens, usage.completion_tokens)
    found: dict[str, Any] = {
        "promptTokenCount": usage.prompt_tokens,
        "candidatesTokenCount": usage.completion_tokens - reasoning,
        "totalTokenCount": usage.total_tokens,
    }
    if reasoning:
        found["thoughtsTokenCount"] = reasoning
    if usage.cached_tokens:
        found["cachedContentTokenCount"] = usage.cached_tokens
    of = usage.details
    if of is not None:
        spoken = usage.completion_tokens - reasoning
        for name, whole, parts in (
            ("promptTokensDetails", usage.prompt_tokens, (of.audio_prompt_tokens, of.image_prompt_tokens)),
            ("cacheTokensDetails", usage.cached_tokens, (of.audio_cached_tokens, of.image_cached_tokens)),
            ("candidatesTokensDetails", spoken, (of.audio_completion_tokens, of.image_completion_tokens)),
        ):
            if any(parts):
                counts = (max(whole - sum(parts), 0), *parts)
                found[name] = [
                    {"modality": modality, "tokenCount": count}
                    for modality, count in zip(("TEXT", "AUDIO", "IMAGE"), counts, strict=True)
                    if count
                ]
    return found

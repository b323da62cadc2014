"""Usage as vendors of OpenAI's dialects report it: the shapes on the wire, and their translation to `Usage`.

Sources: OpenAI's API reference ("The chat completion object", `usage`), and for what other vendors add to it the
extractors of the genai-prices package and the vendors' own references. A detail of an odd type is left out: the
tokens beside it still count.
"""

from __future__ import annotations

from typing import Any

import msgspec

from app.domain.reported_cost import reported_cost
from app.domain.usage import SERVICE_TIERS, Details, Usage

# More than any model can read or write in one call: what a vendor reports beyond it is not a count.
_MAX_TOKENS = 10**9


class _PromptDetails(msgspec.Struct, frozen=True):
    cached_tokens: object = None
    cache_write_tokens: object = None
    cache_creation_tokens: object = None  # LiteLLM's word for it
    audio_tokens: object = None
    image_tokens: object = None
    video_tokens: object = None  # OpenRouter


class _CompletionDetails(msgspec.Struct, frozen=True):
    reasoning_tokens: object = None
    audio_tokens: object = None
    image_tokens: object = None  # OpenRouter


class WireUsage(msgspec.Struct, frozen=True):
    """The object `usage` of a response, with what vendors add to it."""

    prompt_tokens: int = 0
    completion_tokens: int | None = None
    total_tokens: object = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None
    # Perplexity, whose `reasoning_tokens` and `citation_tokens` come on top of `completion_tokens`.
    num_search_queries: object = None
    reasoning_tokens: object = None
    citation_tokens: object = None
    server_tool_use: object = None  # OpenRouter: {"web_search_requests": 2}
    prompt_audio_seconds: object = None  # Mistral
    # Reads from the cache, where the details do not tell of them.
    cached_tokens: object = None  # Moonshot
    prompt_cache_hit_tokens: object = None  # DeepSeek
    # What the call costs: see `domain.reported_cost`.
    cost: object = None
    cost_details: object = None
    is_byok: object = None
    cost_in_usd_ticks: object = None


def to_usage(wire: WireUsage, service_tier: str | None = None) -> Usage:
    """Returns `wire` as `Usage`.

    Tokens of the total beyond prompt and completion are output: xAI and Google report a model's thinking there and
    nowhere else, and bill it as such.
    """
    prompt, completion = wire.prompt_tokens_details, wire.completion_tokens_details
    prompt_tokens, completion_tokens = _count(wire.prompt_tokens), _count(wire.completion_tokens)
    beyond = _count(wire.total_tokens) - prompt_tokens - completion_tokens
    if beyond > 0:
        completion_tokens += beyond
    usage = Usage(
        prompt_tokens,
        completion_tokens,
        (_count(prompt.cached_tokens) if prompt else 0) or _count(wire.cached_tokens or wire.prompt_cache_hit_tokens),
        _count(completion.reasoning_tokens) if completion else 0,
        service_tier=service_tier if service_tier in SERVICE_TIERS else "",
    )
    if wire.num_search_queries is not None:
        usage = _add_perplexity_tokens(usage, wire)
    if wire.cost is not None or wire.cost_in_usd_ticks is not None:
        usage = usage._replace(reported_cost_nanousd=reported_cost(msgspec.structs.asdict(wire)))
    details = _details(wire, prompt, completion)
    return usage if details is None else usage._replace(details=details)


def _details(wire: WireUsage, prompt: _PromptDetails | None, completion: _CompletionDetails | None) -> Details | None:
    """Returns the rarer kinds of tokens and fees; None if there are none."""
    details: dict[str, int] = {}
    if prompt and (
        prompt.cache_write_tokens
        or prompt.cache_creation_tokens
        or prompt.audio_tokens
        or prompt.image_tokens
        or prompt.video_tokens
    ):
        details["cache_write_tokens"] = _count(prompt.cache_write_tokens or prompt.cache_creation_tokens)
        details["audio_prompt_tokens"] = _count(prompt.audio_tokens)
        details["image_prompt_tokens"] = _count(prompt.image_tokens)
        details["video_prompt_tokens"] = _count(prompt.video_tokens)
    if completion and (completion.audio_tokens or completion.image_tokens):
        details["audio_completion_tokens"] = _count(completion.audio_tokens)
        details["image_completion_tokens"] = _count(completion.image_tokens)
    if wire.server_tool_use or wire.num_search_queries or wire.prompt_audio_seconds:
        searches = wire.server_tool_use.get("web_search_requests") if isinstance(wire.server_tool_use, dict) else None
        details["searches"] = _count(searches or wire.num_search_queries)
        details["audio_seconds"] = _count(wire.prompt_audio_seconds)
        details["citation_tokens"] = _count(wire.citation_tokens)
    return Details(**details) if any(details.values()) else None


def _add_perplexity_tokens(usage: Usage, wire: WireUsage) -> Usage:
    """Adds the tokens that Perplexity reports on top of `completion_tokens`."""
    reasoning, citation = _count(wire.reasoning_tokens), _count(wire.citation_tokens)
    beyond = max(_count(wire.total_tokens) - usage.prompt_tokens - _count(wire.completion_tokens), 0)
    return usage._replace(
        completion_tokens=usage.completion_tokens + max(reasoning + citation - beyond, 0), reasoning_tokens=reasoning
    )


def _count(value: object) -> int:
    """Returns `value` if it is a number of tokens; 0 for anything else."""
    if type(value) is int and 0 <= value <= _MAX_TOKENS:
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0
    return int(min(max(value, 0), _MAX_TOKENS))


def encode_usage(usage: Usage) -> dict[str, Any]:
    """Returns the object `usage`. Searches stand where OpenRouter writes them: OpenAI has no field for them."""
    prompt: dict[str, int] = {"cached_tokens": usage.cached_tokens}
    completion: dict[str, int] = {"reasoning_tokens": usage.reasoning_tokens}
    encoded: dict[str, Any] = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": prompt,
        "completion_tokens_details": completion,
    }
    details = usage.details
    if details is not None:
        _set(
            prompt,
            cache_write_tokens=details.cache_write_tokens,
            audio_tokens=details.audio_prompt_tokens,
            image_tokens=details.image_prompt_tokens,
            video_tokens=details.video_prompt_tokens,
        )
        _set(completion, audio_tokens=details.audio_completion_tokens, image_tokens=details.image_completion_tokens)
        if details.searches:
            encoded["server_tool_use"] = {"web_search_requests": details.searches}
    return encoded


def _set(target: dict[str, int], **counts: int) -> None:
    target.update({name: count for name, count in counts.items() if count})

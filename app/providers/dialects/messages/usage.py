"""Usage as vendors of this dialect report it, and its translation to `Usage` and back.

On the wire `input_tokens` are those that were neither read from the cache nor written to it. In a stream the counters
of `message_delta` are totals: they replace those of `message_start`, and may be lower.

Source: the types `Usage`, `MessageDeltaUsage` and `BetaIterationsUsage` of Anthropic's Python library.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from app.domain.reported_cost import reported_cost
from app.domain.usage import Details, Usage

_MAX_TOKENS = 10**9  # more than any model can read or write in one call
_PROMPT_COUNTERS = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
_COUNTERS = (*_PROMPT_COUNTERS, "output_tokens")
_TIERS = ("priority", "batch")
_REGION = re.compile("[a-z0-9-]{1,32}")
_ANYWHERE = frozenset({"global", "not_available"})
# Iterations of another model than the answer's, at its own price: the totals do not say what is whose.
_OTHER_MODELS = ("advisor_message", "fallback_message")


def merged(start: Mapping[str, Any], delta: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the usage of a stream: what `delta` says, and of `start` what it does not say.

    A prompt of nothing is no count: there are vendors that fill `message_delta` with zeros.
    """
    told = {name: value for name, value in delta.items() if value is not None}
    if not any(_count(told.get(name)) for name in _PROMPT_COUNTERS) and any(map(start.get, _PROMPT_COUNTERS)):
        told = {name: value for name, value in told.items() if name not in _PROMPT_COUNTERS}
    both = {**start, **told}
    if "cache_creation_input_tokens" in told and _split(both)[1] > _count(told["cache_creation_input_tokens"]):
        del both["cache_creation"]  # of a count that was taken back
    return both


def to_usage(wire: Mapping[str, Any]) -> Usage:
    """Returns `wire` as `Usage`. What is of an odd type counts as nothing."""
    counts = {name: _count(wire.get(name)) for name in _COUNTERS}
    written_1h, split = _split(wire)
    told = wire.get("iterations")
    iterations = [each for each in told if isinstance(each, dict)] if isinstance(told, list) else []
    for iteration in iterations:
        # Those of the conversation itself are in the counters above; a compaction's are not.
        if iteration.get("type") == "compaction":
            for name in _COUNTERS:
                counts[name] += _count(iteration.get(name))
            written_1h += _split(iteration)[0]
    read, written = counts["cache_read_input_tokens"], max(counts["cache_creation_input_tokens"], split)
    searches = _count(_part(wire, "server_tool_use").get("web_search_requests"))
    details = None
    if written or searches:
        details = Details(cache_write_tokens=written, cache_write_1h_tokens=min(written_1h, written), searches=searches)
    tier, region = wire.get("service_tier"), wire.get("inference_geo")
    if not (isinstance(region, str) and region not in _ANYWHERE and _REGION.fullmatch(region)):
        region = ""
    return Usage(
        counts["input_tokens"] + read + written,
        counts["output_tokens"],
        read,
        _count(_part(wire, "output_tokens_details").get("thinking_tokens")),
        service_tier="fast"
        if wire.get("speed") == "fast"
        else tier
        if isinstance(tier, str) and tier in _TIERS
        else "",
        details=details,
        inference_geo=region,
        unpriced=any(str(each.get("type")) in _OTHER_MODELS for each in iterations),
        reported_cost_nanousd=reported_cost(wire),
    )


def write_usage(usage: Usage | None) -> dict[str, Any]:
    """Returns the object `usage` of an answer, or of a stream's beginning."""
    found = usage or Usage()
    details = found.details or Details()
    parts = found.prompt_parts()
    written = parts["cache_write"] + parts["cache_write_1h"]
    read = parts["cached"] + parts["audio_cached"] + parts["image_cached"]
    value: dict[str, Any] = {
        "input_tokens": found.prompt_tokens - read - written,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": parts["cache_write"],
            "ephemeral_1h_input_tokens": parts["cache_write_1h"],
        },
        "output_tokens": found.completion_tokens,
        "output_tokens_details": {"thinking_tokens": found.completion_parts()["reasoning"]},
        "server_tool_use": {"web_search_requests": details.searches, "web_fetch_requests": 0}
        if details.searches
        else None,
        "service_tier": found.service_tier if found.service_tier in _TIERS else "standard",
    }
    return value | {"speed": "fast"} if found.service_tier == "fast" else value


def write_delta_usage(usage: Usage | None) -> dict[str, Any]:
    """Returns the object `usage` of a stream's end."""
    value = write_usage(usage)
    if value["server_tool_use"] is None:
        del value["server_tool_use"]
    for name in ("service_tier", "speed"):
        value.pop(name, None)
    return value


def _split(wire: Mapping[str, Any]) -> tuple[int, int]:
    """Returns the tokens cached for an hour, and those for a time that is known. The others are for 5 minutes."""
    split = _part(wire, "cache_creation")
    hour = _count(split.get("ephemeral_1h_input_tokens"))
    return hour, hour + _count(split.get("ephemeral_5m_input_tokens"))


def _part(wire: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = wire.get(name)
    return found if isinstance(found, dict) else {}


def _count(value: object) -> int:
    """Returns `value` if it is a number of tokens; 0 for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        return 0
    return int(min(max(value, 0), _MAX_TOKENS))

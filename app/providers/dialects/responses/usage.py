"""Usage in the Responses API's shape: read from answers, and written into them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from app.domain.usage import Details, Usage
from app.providers.dialects.openai_usage import WireUsage, to_usage

# Work of the vendor's own tools that is billed besides, at prices that no answer tells.
_UNPRICED = frozenset({"code_interpreter_call", "image_generation_call", "x_search_call"})


class OutputItem(msgspec.Struct, frozen=True):
    """An item of the output, as far as it is billed by its kind."""

    type: object = None
    action: object = None


class Billed(msgspec.Struct, frozen=True):
    """A response, as far as it says what it costs."""

    usage: object = None
    service_tier: object = None
    output: list[OutputItem] | None = None


def read_usage(response: Mapping[str, Any]) -> Usage | None:
    """Returns what the response object says of its cost; None where it has no usage."""
    output = response.get("output")
    found = output if isinstance(output, list) else ()
    items = [OutputItem(item.get("type"), item.get("action")) for item in found if isinstance(item, dict)]
    return to_billed_usage(Billed(response.get("usage"), response.get("service_tier"), items))


def to_billed_usage(billed: Billed) -> Usage | None:
    """Returns what a response costs; None where it has no usage."""
    reported = billed.usage
    if not isinstance(reported, dict):
        return None
    wire = {
        **reported,
        "prompt_tokens": _whole(reported.get("input_tokens")),
        "completion_tokens": _whole(reported.get("output_tokens")),
        "prompt_tokens_details": _object(reported.get("input_tokens_details")),
        "completion_tokens_details": _object(reported.get("output_tokens_details")),
        "server_tool_use": {"web_search_requests": sum(map(_is_search, billed.output or ()))},
    }
    tier = billed.service_tier
    usage = to_usage(msgspec.convert(wire, WireUsage), tier if isinstance(tier, str) else None)
    file_searches = sum(item.type == "file_search_call" for item in billed.output or ())
    if file_searches:
        usage = usage._replace(details=(usage.details or Details())._replace(file_searches=file_searches))
    if any(isinstance(item.type, str) and item.type in _UNPRICED for item in billed.output or ()):
        usage = usage._replace(unpriced=True)
    return usage


def usage_object(usage: Usage) -> dict[str, Any]:
    """Returns `usage` as clients read it: Codex needs each counter of the details where those are."""
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "cache_write_tokens": usage.details.cache_write_tokens if usage.details else 0,
        },
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.total_tokens,
    }


def _is_search(item: OutputItem) -> bool:
    """Tells if the item is a web search, which is billed: opening a page that was found is not."""
    action = _object(item.action)
    return item.type == "web_search_call" and (action is None or action.get("type") in ("search", None))


def _object(value: object) -> dict[str, Any] | None:
    return value if isinstance(value, dict) else None


def _whole(value: object) -> int:
    return value if type(value) is int else 0

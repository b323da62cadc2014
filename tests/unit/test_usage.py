"""Vendors' usage reports, read in one place for all kinds: nothing twice, nothing negative, nothing lost."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.chat import ChatRequest, EmbedRequest
from app.domain.usage import Details, Usage
from app.gateway.chunks import to_completion
from app.gateway.implied_usage import MAX_SEARCHES, max_searches, with_implied_usage
from app.providers.dialects.openai_usage import WireUsage, to_usage

DETAILS: dict[str, Any] = {
    "prompt_tokens_details": {
        "cached_tokens": 1,
        "cache_write_tokens": 2,
        "audio_tokens": 3,
        "image_tokens": 4,
        "video_tokens": 5,
        "text_tokens": 85,
    },
    "completion_tokens_details": {
        "reasoning_tokens": 6,
        "audio_tokens": 7,
        "image_tokens": 8,
        "text_tokens": 29,
        "accepted_prediction_tokens": 10,
        "rejected_prediction_tokens": 11,
    },
}
READ = Details(
    cache_write_tokens=2,
    audio_prompt_tokens=3,
    image_prompt_tokens=4,
    video_prompt_tokens=5,
    audio_completion_tokens=7,
    image_completion_tokens=8,
)


def read(prompt: Any = 100, completion: Any = 50, tier: str | None = None, **more: Any) -> Usage:
    wire = {"prompt_tokens": prompt, "completion_tokens": completion, **more}
    return to_usage(msgspec.json.decode(json.dumps(wire), type=WireUsage), tier)


def test_every_detail_is_read_as_the_part_that_it_is() -> None:
    assert read(**DETAILS, total_tokens=150) == Usage(100, 50, 1, 6, details=READ)
    assert read(total_tokens=150) == read(total_tokens=None) == read() == Usage(100, 50)
    assert read(prompt_tokens_details=None, completion_tokens_details=None) == Usage(100, 50)
    zero = {"audio_tokens": 0, "cached_tokens": 0}
    assert read(prompt_tokens_details=zero).details is None, "most calls have none, and pay for none"


def test_thinking_that_only_the_total_tells_of_is_output() -> None:
    # xAI: "reasoning tokens are counted separately from completion_tokens, but in the total_tokens".
    grok = {"reasoning_tokens": 94, "audio_tokens": 0}
    assert read(32, 9, total_tokens=135, completion_tokens_details=grok) == Usage(32, 103, 0, 94)
    assert read(20, 151, total_tokens=553) == Usage(20, 533), "Google, which gives no detail"
    assert read(20, 151, total_tokens=150) == Usage(20, 151), "a total that is too small is none"


def test_what_perplexity_counts_beside_the_completion_is_output() -> None:
    usage = read(33, 7163, total_tokens=7196, citation_tokens=1000, num_search_queries=21, reasoning_tokens=500)
    assert usage == Usage(33, 8663, 0, 500, details=Details(citation_tokens=1000, searches=21))
    inside = read(33, 8663, total_tokens=10_196, citation_tokens=1000, num_search_queries=1, reasoning_tokens=500)
    assert inside.completion_tokens == 10_163, "never twice: the total has them already"


def test_searches_and_seconds_are_counted_where_they_are_reported() -> None:
    assert read(server_tool_use={"web_search_requests": 3}).searches == 3
    assert read(server_tool_use="three").searches == read(server_tool_use={}).searches == 0
    assert read(prompt_audio_seconds=61).details == Details(audio_seconds=61)


odd = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()


@given(st.dictionaries(st.sampled_from([*DETAILS["prompt_tokens_details"], "reasoning_tokens"]), odd))
def test_an_odd_detail_costs_nothing_and_loses_nothing_beside_it(details: dict[str, Any]) -> None:
    usage = read(
        prompt_tokens_details=details, completion_tokens_details=details, server_tool_use=[1], citation_tokens={}
    )
    assert usage[:2] == (100, 50)
    assert all(type(count) is int and 0 <= count <= 10**9 for count in usage[2:4])
    assert all(type(count) is int and 0 <= count <= 10**9 for count in usage.details or ())


def test_a_count_that_no_call_can_have_is_cut() -> None:
    assert read(10**12, -5)[:2] == (10**9, 0)
    assert read(10, 5, total_tokens=10**30)[:2] == (10, 10**9 - 10)


@pytest.mark.parametrize("tier", [None, "", "default", "auto", "scale", "x" * 100_000])
def test_a_service_tier_that_nobody_prices_is_the_standard_one(tier: str | None) -> None:
    assert read(tier=tier).service_tier == ""
    assert read(tier="priority").service_tier == "priority"


def chat(**fields: Any) -> ChatRequest:
    return ChatRequest.parse(
        json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hi"}], **fields}).encode()
    )


@pytest.mark.parametrize(
    ("model", "fields", "charged", "reserved"),
    [
        ("gpt-4.1", {}, 0, 0),
        ("gpt-4.1", {"web_search_options": {}}, 1, MAX_SEARCHES),
        ("gpt-4.1", {"web_search_options": None, "plugins": None, "tools": None}, 0, 0),
        ("gpt-4o-search-preview-2025-03-11", {}, 1, MAX_SEARCHES),
        ("openai/gpt-4o:online", {}, 1, MAX_SEARCHES),
        ("gpt-4.1", {"plugins": [{"id": "web"}]}, 0, MAX_SEARCHES),
        ("gpt-4.1", {"tools": [{"type": "openrouter:web_search"}]}, 0, MAX_SEARCHES),
        ("gpt-4.1", {"tools": [{"type": "function", "function": {"name": "web_search"}}]}, 0, 0),
    ],
)
def test_a_search_that_is_not_reported_is_charged_as_the_request_implies(
    model: str, fields: dict[str, Any], charged: int, reserved: int
) -> None:
    request = chat(**fields)
    assert with_implied_usage(Usage(1, 1), request, model).searches == charged
    assert max_searches(request, model) == reserved
    assert with_implied_usage(Usage(1, 1, details=Details(searches=4)), request, model).searches == 4, (
        "what is reported counts"
    )


def test_a_cache_write_lasts_as_long_as_was_asked_for() -> None:
    written = Usage(9, 1, details=Details(cache_write_tokens=5))
    assert with_implied_usage(written, chat(), "m") is written
    asked = with_implied_usage(written, chat(cache_control={"type": "ephemeral", "ttl": "1h"}), "m").details
    assert asked == Details(cache_write_tokens=5, cache_write_1h_tokens=5)
    embedding = EmbedRequest.parse(b'{"model":"m","input":"1h"}')
    assert with_implied_usage(written, embedding, "gpt-4o-search-preview") is written
    assert max_searches(embedding, "gpt-4o-search-preview") == 0


def test_a_cached_stream_tells_the_usage_that_the_stream_had() -> None:
    usage = Usage(100, 50, 1, 6, details=READ._replace(searches=2))
    chunk = {"id": "c", "choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"}]}
    kept = to_completion([b"data: %b\n\n" % json.dumps(chunk).encode()], usage)
    assert kept is not None
    assert to_usage(msgspec.convert(json.loads(kept)["usage"], WireUsage)) == usage

"""The ledger's cost equals the vendor's bill: for every kind of token that a price list has, streamed or not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.client import chat, post
from tests.support.servers import Gateway, RedisServer, flushed
from tests.support.upstream import Upstream

VENDORS = {
    "openai": [
        "gpt-5.6-sol",
        "gpt-audio",
        "gpt-realtime",
        "gpt-4.1-mini",
        "gpt-4o-mini-search-preview",
        "gpt-4o-search-preview",
    ],
    "google": ["gemini-3-pro-image-preview", "gemini-2.5-flash"],
    "anthropic": ["claude-sonnet-4-6"],
    "x-ai": ["grok-4.3"],
    "perplexity": ["sonar-pro", "sonar-deep-research"],
    "mistral": ["voxtral-small-24b-2507"],
}


class Bill(NamedTuple):
    """A call, what its vendor says of it, and what it costs by the vendor's price list, in millionths of a dollar."""

    name: str
    model: str
    usage: dict[str, Any]
    micro_usd: float
    row: dict[str, Any]
    tier: str | None = None
    fields: dict[str, Any] = {}  # noqa: RUF012


def usage_report(prompt: int, completion: int, total: int | None = None, /, **more: Any) -> dict[str, Any]:
    whole = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total or prompt + completion}
    return {**whole, **more}


def of_prompt(**tokens: int) -> dict[str, Any]:
    return {"prompt_tokens_details": tokens}


def of_completion(**tokens: int) -> dict[str, Any]:
    return {"completion_tokens_details": tokens}


WRITES = usage_report(10_000, 500, **of_prompt(cached_tokens=2000, cache_write_tokens=6000))
AUDIO = usage_report(1000, 300, **of_prompt(audio_tokens=800), **of_completion(audio_tokens=200))
RESEARCH = usage_report(33, 7163, citation_tokens=19_028, num_search_queries=21, reasoning_tokens=73_997)
BILLS = [
    Bill(
        "cache writes",
        "gpt-5.6-sol",
        WRITES,
        2000 * 4 + 2000 * 0.4 + 6000 * 5 + 500 * 20,
        {"cached_tokens": 2000, "cache_write_tokens": 6000},
    ),
    Bill(
        "cache writes at priority",
        "gpt-5.6-sol",
        WRITES,
        2000 * 8 + 2000 * 0.8 + 6000 * 10 + 500 * 40,
        {"cache_write_tokens": 6000, "service_tier": "priority"},
        "priority",
    ),
    Bill(
        "a tier that nobody has heard of",
        "gpt-5.6-sol",
        usage_report(10, 5),
        10 * 4 + 5 * 20,
        {"service_tier": ""},
        "x" * 100_000,
    ),
    Bill(
        "cache writes for an hour",
        "claude-sonnet-4-6",
        usage_report(1000, 10, **of_prompt(cache_write_tokens=900)),
        100 * 3 + 900 * 6 + 10 * 15,
        {"cache_write_1h_tokens": 900},
        None,
        {"cache_control": {"type": "ephemeral", "ttl": "1h"}},
    ),
    Bill(
        "sound in and out",
        "gpt-audio",
        AUDIO,
        200 * 2.5 + 800 * 32 + 100 * 10 + 200 * 64,
        {"audio_prompt_tokens": 800, "audio_completion_tokens": 200},
    ),
    Bill(
        "sound in",
        "gemini-2.5-flash",
        usage_report(1000, 10, **of_prompt(audio_tokens=900)),
        100 * 0.3 + 900 * 1 + 10 * 2.5,
        {"audio_prompt_tokens": 900},
    ),
    Bill(
        "a picture in",
        "gpt-realtime",
        usage_report(1000, 10, **of_prompt(image_tokens=900)),
        100 * 4 + 900 * 5 + 10 * 16,
        {"image_prompt_tokens": 900},
    ),
    Bill(
        "a picture out",
        "gemini-3-pro-image-preview",
        usage_report(50, 1220, **of_completion(image_tokens=1120)),
        50 * 2 + 100 * 12 + 1120 * 120,
        {"image_completion_tokens": 1120},
    ),
    Bill(
        "a search that was asked for",
        "gpt-4.1-mini",
        usage_report(10, 5),
        10 * 0.4 + 5 * 1.6 + 10_000,
        {"searches": 1},
        None,
        {"web_search_options": {}},
    ),
    Bill(
        "searches that were counted",
        "gpt-4.1-mini",
        usage_report(10, 5, server_tool_use={"web_search_requests": 3}),
        10 * 0.4 + 5 * 1.6 + 30_000,
        {"searches": 3},
        None,
        {"plugins": [{"id": "web"}]},
    ),
    Bill(
        "a model that always searches",
        "gpt-4o-mini-search-preview",
        usage_report(10, 5),
        10 * 0.15 + 5 * 0.6 + 10_000,
        {"searches": 1, "unpriced": 0},
    ),
    Bill(
        "a search whose fee nobody knows",
        "gpt-4o-search-preview",
        usage_report(10, 5),
        10 * 2.5 + 5 * 10,
        {"searches": 1, "unpriced": 1},
    ),
    Bill("a fee for each request", "sonar-pro", usage_report(10, 5), 10 * 3 + 5 * 15 + 14_000, {"unpriced": 0}),
    Bill(
        "research",
        "sonar-deep-research",
        RESEARCH,
        33 * 2 + 7163 * 8 + 73_997 * 3 + 19_028 * 2 + 21 * 5000,
        {"completion_tokens": 7163 + 73_997 + 19_028, "citation_tokens": 19_028, "searches": 21},
    ),
    Bill(
        "thinking beside the completion",
        "grok-4.3",
        usage_report(32, 9, 135, **of_completion(reasoning_tokens=94)),
        32 * 1.25 + 103 * 2.5,
        {"completion_tokens": 103, "reasoning_tokens": 94},
    ),
    Bill(
        "speech by the second",
        "voxtral-small-24b-2507",
        usage_report(10, 5, prompt_audio_seconds=60),
        10 * 0.1 + 5 * 0.4 + 60 * 240_000 / 3600,
        {"audio_seconds": 60},
    ),
]


def config(url: str) -> str:
    vendors = {name: {"kind": "openai", "base_url": url, "api_key": "sk-upstream", "prices": name} for name in VENDORS}
    models = {model: {"targets": [{"provider": name}]} for name, models in VENDORS.items() for model in models}
    plans = {"budget": {"budget_usd_per_month": 1000}}
    return json.dumps({"providers": vendors, "models": models, "plans": plans})


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer, vendor: Upstream) -> Iterator[Gateway]:
    flushed(redis_server.url)
    directory: Path = tmp_path_factory.mktemp("bills")
    with Gateway(directory, config(vendor.url), redis_url=redis_server.url) as started:
        yield started


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_the_ledger_has_what_the_vendor_bills(gateway: Gateway, stream: bool) -> None:
    expected, found = {}, {}
    for bill in BILLS:
        said = {"usage": bill.usage} | ({"service_tier": bill.tier} if bill.tier else {})
        request = chat(bill.model, stream=stream, metadata={"bill": json.dumps(said)}, **bill.fields)
        answer = post(gateway.port, request, gateway.create_key())
        assert answer.status == 200, answer
        gateway.drained()
        row = gateway.rows(f"request_id = '{answer.headers['x-request-id']}'")[0]
        expected[bill.name] = {**bill.row, "cost": round(bill.micro_usd, 2)}
        found[bill.name] = {**{name: row.get(name) for name in bill.row}, "cost": round(row["cost_nanousd"] / 1000, 2)}
    assert found == expected


def test_under_a_budget_a_search_whose_fee_nobody_knows_is_refused(gateway: Gateway) -> None:
    key = gateway.create_key(plan="budget")
    assert post(gateway.port, chat("gpt-4o-search-preview"), key).status == 403
    assert post(gateway.port, chat("voxtral-small-24b-2507"), key).status == 403, "nobody sees how long a recording is"
    assert post(gateway.port, chat("gpt-4.1-mini"), key).status == 200

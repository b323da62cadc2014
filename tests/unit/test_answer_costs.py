"""The cost of an answer: by our prices or the vendor's own, flagged where nobody knows it, refused under a budget."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, ClassVar, cast

import msgspec
import pytest

from app.config.gateway import GatewayConfig
from app.config.prices import PriceOverride
from app.config.providers import ProviderConfig
from app.domain.body import decode_fields
from app.domain.chat import ChatRequest
from app.domain.gemini import GeminiRequest
from app.domain.generation import DialectName, GenerationRequest
from app.domain.messages import MessagesRequest
from app.domain.money import COMPLETION_KINDS, PROMPT_KINDS
from app.domain.reported_cost import reported_cost
from app.domain.responses import ResponsesRequest
from app.domain.usage import SERVICE_TIERS, Details, Usage
from app.errors import Forbidden
from app.gateway.attempt_costs import AnswerCost, AttemptCosts, Unanswered
from app.gateway.breaker import Breaker
from app.gateway.estimates import Estimator
from app.gateway.implied_usage import MAX_SEARCHES, TOKENS_PER_USE, Fees, asked_tier, most_fees
from app.gateway.pricing import Pricing
from app.gateway.routes import Route, Target
from app.providers.base import Provider

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
READS = MAX_SEARCHES * TOKENS_PER_USE
MILLION = 10**9 * 1_000_000


class _Request(GenerationRequest, frozen=True, kw_only=True):
    @property
    def message_count(self) -> int:
        return 1

    @property
    def max_output_tokens(self) -> int | None:
        return 100


class ChatBody(_Request, frozen=True, kw_only=True):
    dialect: ClassVar[DialectName] = "chat"


class MessagesBody(_Request, frozen=True, kw_only=True):
    dialect: ClassVar[DialectName] = "messages"


class ResponsesBody(_Request, frozen=True, kw_only=True):
    dialect: ClassVar[DialectName] = "responses"


class GeminiBody(_Request, frozen=True, kw_only=True):
    dialect: ClassVar[DialectName] = "gemini"


def encoded(**fields: Any) -> bytes:
    return json.dumps({"model": "m", **fields}).encode()


def asking(kind: type[GenerationRequest], **fields: Any) -> GenerationRequest:
    raw = encoded(**fields)
    return msgspec.structs.replace(msgspec.json.decode(raw, type=kind), raw=raw, fields=decode_fields(raw))


def pricing(**overrides: Any) -> Pricing:
    config = GatewayConfig.model_validate(
        {
            "providers": {
                "openai": {"kind": "openai", "base_url": "https://api.openai.com/v1"},
                "anthropic": {"kind": "anthropic"},
                "gemini": {"kind": "gemini"},
                "openrouter": {"kind": "openai", "base_url": "https://openrouter.ai/api/v1"},
                "wary": {"kind": "openai", "base_url": "https://openrouter.ai/api/v1", "trust_reported_cost": False},
                "proxy": {"kind": "openai", "base_url": "http://proxy.test/v1", "trust_reported_cost": True},
                "unknown": {"kind": "openai", "base_url": "http://vllm.test/v1"},
            },
            "models": {"m": {"targets": [{"provider": "openai"}]}},
        }
    )
    prices = {name: {m: PriceOverride.model_validate(p) for m, p in each.items()} for name, each in overrides.items()}
    return Pricing(config=config, overrides=prices, clock=NOW.timestamp)


def cost_of(usage: Usage, provider: str, model: str, request: GenerationRequest | None = None) -> AnswerCost:
    return AttemptCosts(pricing()).of_answer(request or asking(ChatBody), provider, model, usage)


# --- the vendor's own cost


@pytest.mark.parametrize(
    ("usage", "nanousd"),
    [
        ({}, None),
        ({"cost": 0}, 0),
        ({"cost": 0.00123}, 1_230_000),
        ({"cost": 1e-12}, 1),
        ({"cost": "0.5"}, 500_000_000),
        ({"cost": 0.01, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.2}}, 210_000_000),
        ({"cost": 0.01, "is_byok": True, "cost_details": {"upstream_inference_cost": None}}, 10_000_000),
        ({"cost": 0.01, "is_byok": False, "cost_details": {"upstream_inference_cost": 0.2}}, 10_000_000),
        ({"cost": {"total_cost": 0.014, "input_tokens_cost": 0.001}}, 14_000_000),
        ({"cost": {}}, None),
        ({"cost_in_usd_ticks": 158_500_000}, 15_850_000),
        ({"cost_in_usd_ticks": 11}, 2),
        ({"cost_in_usd_ticks": -1}, None),
        ({"cost_in_usd_ticks": 10**40}, 10**15),
        ({"cost": -1}, None),
        ({"cost": True}, None),
        ({"cost": "free"}, None),
        ({"cost": "NaN"}, None),
        ({"cost": "Infinity"}, None),
        ({"cost": [1]}, None),
        ({"cost": 1e300}, 10**15),
        ({"cost": "9" * 100_000}, 10**15),
    ],
)
def test_a_vendors_own_cost_is_read_to_the_nano_dollar(usage: dict[str, Any], nanousd: int | None) -> None:
    assert reported_cost(usage) == nanousd


def test_a_trusted_vendors_cost_counts_and_ours_stands_beside_it() -> None:
    usage = Usage(1000, 100, reported_cost_nanousd=4_000_000)
    found = cost_of(usage, "openrouter", "anthropic/claude-sonnet-4.5")
    assert found[1:] == (4_000_000, False, "genai-prices 0.2.3", 1000 * 3000 + 100 * 15_000)
    assert cost_of(usage, "openrouter", "nobody-knows-it")[1:] == (4_000_000, False, "", None), "no price of ours"
    assert cost_of(usage, "proxy", "nobody-knows-it").nanousd == 4_000_000


def test_of_other_vendors_our_prices_count_and_theirs_stand_beside_them() -> None:
    usage = Usage(1000, 100, reported_cost_nanousd=0)
    ours = 1000 * 3000 + 100 * 15_000
    assert cost_of(usage, "wary", "anthropic/claude-sonnet-4.5")[1:] == (ours, False, "genai-prices 0.2.3", ours)
    found = cost_of(usage, "unknown", "m")
    assert (found.nanousd, found.unpriced, found.computed_nanousd) == (0, True, None)
    assert found.usage.recorded()["reported_cost_nanousd"] == 0


@pytest.mark.parametrize(
    ("base_url", "trusted"),
    [
        ("https://openrouter.ai/api/v1", True),
        ("https://api.perplexity.ai", True),
        ("https://eu-west-1.api.x.ai/v1", True),
        ("https://api.openai.com/v1", False),
        ("https://notopenrouter.ai/v1", False),
        ("https://openrouter.ai.evil.test/v1", False),
    ],
)
def test_vendors_that_report_dollars_are_trusted_by_default(base_url: str, trusted: bool) -> None:
    given = {"kind": "openai", "base_url": base_url}
    assert ProviderConfig.model_validate(given).trusts_reported_cost is trusted
    for chosen in (True, False):
        assert ProviderConfig.model_validate({**given, "trust_reported_cost": chosen}).trusts_reported_cost is chosen


# --- the price list


def test_a_row_can_name_the_prices_that_were_used() -> None:
    assert cost_of(Usage(1, 1), "openai", "gpt-5").price_version == "genai-prices 0.2.3"
    one, two = (pricing(openai={"gpt-5": {"prompt": price}}).rate_card("openai", "gpt-5") for price in (1, 2))
    again = pricing(openai={"gpt-5": {"prompt": 1}}).rate_card("openai", "gpt-5")
    assert one is not None
    assert two is not None
    assert again is not None
    assert one.version == again.version != two.version
    assert one.version.startswith("prices.yaml ")


def test_anthropics_fast_mode_has_its_price_and_the_ceiling_counts_it() -> None:
    usage = Usage(1000, 100, service_tier="fast")
    assert cost_of(usage, "anthropic", "claude-opus-4-8").nanousd == 1000 * 10_000 + 100 * 50_000
    asked = asking(MessagesBody, speed="fast")
    unsaid = cost_of(Usage(1000, 100), "anthropic", "claude-opus-4-8", asked)
    assert unsaid.nanousd == 1000 * 10_000 + 100 * 50_000, "asked for, and perhaps served"
    ceiling = pricing().max_cost_nanousd("anthropic", "claude-opus-4-8", 1000, 100)
    assert ceiling == (1000 * 20_000 + 100 * 50_000) * 11 // 10, "cache writes for an hour in fast mode in the US"


def test_a_region_with_a_surcharge_costs_it_on_tokens_and_not_on_searches() -> None:
    usage = Usage(1000, 100, details=Details(searches=2), inference_geo="us")
    assert cost_of(usage, "anthropic", "claude-opus-4-8").nanousd == (5_000_000 + 2_500_000) * 11 // 10 + 20_000_000
    plain = usage._replace(details=None)
    assert cost_of(plain, "anthropic", "claude-opus-4-8").nanousd == (5_000_000 + 2_500_000) * 11 // 10
    elsewhere = plain._replace(inference_geo="eu")
    assert cost_of(elsewhere, "anthropic", "claude-opus-4-8").nanousd == 7_500_000
    assert cost_of(plain, "openai", "gpt-5").nanousd == 1000 * 1250 + 100 * 10_000


# --- vendors' own tools


def test_a_fee_that_nobody_knows_flags_the_answer() -> None:
    assert not cost_of(Usage(1, 1), "openai", "gpt-5").unpriced
    assert cost_of(Usage(1, 1, unpriced=True), "openai", "gpt-5").unpriced
    searched = Usage(1, 1, details=Details(file_searches=2))
    assert cost_of(searched, "openai", "gpt-5")[1:3] == (1250 + 10_000 + 2 * 2_500_000, False)
    assert cost_of(searched, "anthropic", "claude-opus-4-8").unpriced, "its price list has no file search"
    assert cost_of(Usage(1, 1, details=Details(searches=1)), "openai", "gpt-audio").unpriced
    assert cost_of(Usage(1, 1), "unknown", "m").unpriced


def test_google_bills_a_search_by_the_prompt_on_older_models() -> None:
    asked, usage = asking(GeminiBody), Usage(0, 1, details=Details(searches=3))
    assert cost_of(usage, "gemini", "gemini-2.5-pro", asked).nanousd == 10_000 + 35_000_000
    assert cost_of(usage, "gemini", "gemini-3-pro-preview", asked).nanousd == 12_000 + 3 * 14_000_000
    assert cost_of(usage, "openrouter", "google/gemini-2.5-pro", asked).usage.searches == 3


def test_cache_writes_without_a_reported_lifetime_have_the_asked_one() -> None:
    asked = asking(ChatBody, cache_control={"type": "ephemeral", "ttl": "1h"})
    usage = Usage(100, 0, details=Details(cache_write_tokens=100))
    assert cost_of(usage, "anthropic", "claude-opus-4-8", asked).nanousd == 100 * 6250
    assert cost_of(usage, "openrouter", "anthropic/claude-sonnet-4.5", asked).usage.details == Details(
        cache_write_tokens=100, cache_write_1h_tokens=100
    )


@pytest.mark.parametrize(
    ("request_body", "model", "fees"),
    [
        (asking(ChatBody), "gpt-5", Fees()),
        (asking(ChatBody, web_search_options={}), "gpt-5", Fees(MAX_SEARCHES)),
        (asking(MessagesBody), "claude", Fees()),
        (asking(MessagesBody, tools=[{"name": "web_search", "input_schema": {}}]), "claude", Fees()),
        (asking(MessagesBody, tools=[{"type": "custom", "name": "x"}, {"type": "bash_20250124"}]), "claude", Fees()),
        (asking(MessagesBody, tools=[{"type": "mcp_toolset"}, {"type": "tool_search_tool_bm25"}]), "claude", Fees()),
        (
            asking(MessagesBody, tools=[{"type": "web_search_20250305", "name": "web_search", "max_uses": 3}]),
            "claude",
            Fees(3, 0, 3 * TOKENS_PER_USE),
        ),
        (asking(MessagesBody, tools=[{"type": "web_search_20260209"}]), "claude", Fees(MAX_SEARCHES, 0, READS)),
        (
            asking(MessagesBody, tools=[{"type": "web_fetch_20250910", "max_uses": 2, "max_content_tokens": 50_000}]),
            "claude",
            Fees(prompt_tokens=100_000),
        ),
        (asking(MessagesBody, tools=[{"type": "code_execution_20250825"}]), "claude", Fees(prompt_tokens=READS)),
        (asking(MessagesBody, tools=[{"type": "advisor_20260301"}]), "claude", Fees(unknown="advisor_20260301")),
        (asking(MessagesBody, tools=[{"type": 7}]), "claude", Fees(unknown="tools")),
        (asking(MessagesBody, fallbacks=[{"model": "claude-dear"}]), "claude", Fees(unknown="fallbacks")),
        (asking(MessagesBody, fallbacks=None), "claude", Fees()),
        (asking(ResponsesBody, tools=[{"type": "function", "name": "web_search"}]), "gpt-5", Fees()),
        (asking(ResponsesBody, tools=[{"type": "namespace", "tools": []}, {"type": "custom"}]), "gpt-5", Fees()),
        (asking(ResponsesBody, tools=[{"type": "web_search"}]), "gpt-5", Fees(MAX_SEARCHES, 0, READS)),
        (asking(ResponsesBody, tools=[{"type": "web_search_preview_2025_03_11"}]), "o3", Fees(MAX_SEARCHES, 0, READS)),
        (asking(ResponsesBody, tools=[{"type": "file_search"}]), "gpt-5", Fees(0, MAX_SEARCHES, READS)),
        (asking(ResponsesBody, tools=[{"type": "mcp"}]), "gpt-5", Fees(prompt_tokens=READS)),
        (asking(ResponsesBody, tools=[{"type": "code_interpreter"}]), "gpt-5", Fees(unknown="code_interpreter")),
        (asking(ResponsesBody, tools=[{"type": "x_search"}, {"type": "function"}]), "grok", Fees(unknown="x_search")),
        (asking(ResponsesBody, tools=[{"type": "shell", "environment": {"type": "local"}}]), "gpt-5", Fees()),
        (asking(ResponsesBody, tools=[{"type": "shell"}]), "gpt-5", Fees(unknown="shell")),
        (asking(ResponsesBody, tools=[{}]), "gpt-5", Fees(unknown="tools")),
        (asking(GeminiBody, tools=[{"functionDeclarations": [{"name": "googleSearch"}]}]), "gemini-3-pro", Fees()),
        (asking(GeminiBody, tools=[{"googleSearch": {}}]), "gemini-3-pro-preview", Fees(MAX_SEARCHES)),
        (asking(GeminiBody, tools=[{"google_search": {}, "codeExecution": {}}]), "gemini-2.5-pro", Fees(1, 0, READS)),
        (asking(GeminiBody, tools=[{"googleSearch": None}]), "gemini-3-pro-preview", Fees()),
        (asking(GeminiBody, tools=[{"googleMaps": {}}]), "gemini-3-pro-preview", Fees(unknown="googleMaps")),
        (asking(GeminiBody, tools={"urlContext": {}}), "gemini-3-pro-preview", Fees(prompt_tokens=READS)),
    ],
)
def test_what_a_request_lets_a_vendor_bill_besides_is_known(
    request_body: GenerationRequest, model: str, fees: Fees
) -> None:
    assert most_fees(request_body, model) == fees


class _NamedProvider:
    def __init__(self, name: str) -> None:
        self.name = name


def estimated(request: GenerationRequest, provider: str, model: str, *wires: DialectName) -> int:
    """Returns the ceiling that a caller with a budget reserves."""
    breaker = Breaker(threshold=5, cooldown_s=1)
    target = Target(cast(Provider, _NamedProvider(provider)), model, 1.0, breaker, wires=wires)
    route = Route("m", (target,), (), 100)
    return Estimator(pricing=pricing(), completion_tokens=10).estimate(route, request, has_budget=True).reserve.nanousd


def test_under_a_budget_a_tool_whose_fee_nobody_knows_is_refused() -> None:
    asked = asking(MessagesBody, tools=[{"type": "advisor_20260301"}])
    with pytest.raises(Forbidden, match="The price of `advisor_20260301` is unknown") as refused:
        estimated(asked, "anthropic", "claude-opus-4-8", "messages")
    assert refused.value.param == "tools"
    assert estimated(asked, "openai", "gpt-5", "chat") > 0, "it is not sent there"


def test_the_ceiling_has_room_for_the_dearest_tier_and_for_each_search() -> None:
    tool = {"type": "web_search_20250305", "max_uses": 2}
    plain, searching = asking(MessagesBody, tools=[]), asking(MessagesBody, tools=[tool])
    prompt = plain.prompt_tokens_upper_bound()
    # $20 a million written for an hour and $50 out in fast mode, 1.1 times in the US.
    assert estimated(plain, "anthropic", "claude-opus-4-8", "messages") == (prompt * 20_000 + 100 * 50_000) * 11 // 10
    prompt = searching.prompt_tokens_upper_bound() + 2 * TOKENS_PER_USE
    expected = (prompt * 20_000 + 100 * 50_000) * 11 // 10 + 2 * 10_000_000
    assert estimated(searching, "anthropic", "claude-opus-4-8", "messages") == expected


def test_the_tier_that_is_asked_for_is_read_in_every_dialect() -> None:
    assert asked_tier(asking(ChatBody, service_tier="flex")) == "flex"
    assert asked_tier(asking(MessagesBody, speed="fast", service_tier="auto")) == "fast"
    assert asked_tier(asking(MessagesBody, speed="standard")) == ""
    assert asked_tier(asking(GeminiBody)) == ""


def test_an_unanswered_attempt_without_a_price_is_flagged() -> None:
    costs, attempts = AttemptCosts(pricing()), [Unanswered("unknown", "m", "cut"), Unanswered("openai", "gpt-5", "cut")]
    for ceiling in (False, True):
        charged = costs.unanswered(asking(ChatBody), attempts, 100, ceiling=ceiling)
        assert [(each.cost_nanousd > 0, each.unpriced) for each in charged] == [(False, True), (True, False)]


def test_an_unanswered_attempt_may_have_searched_as_often_as_it_was_let() -> None:
    asked = asking(MessagesBody, tools=[{"type": "web_search_20250305", "max_uses": 2}])
    plain = asking(MessagesBody, tools=[{"type": "custom", "name": "abc", "max_uses": 2, "x": "12345"}])
    costs, attempts = AttemptCosts(pricing()), [Unanswered("anthropic", "claude-opus-4-8", "cut")]
    (with_tool,), (without,) = (costs.unanswered(each, attempts, 10, ceiling=True) for each in (asked, plain))
    assert with_tool.cost_nanousd - without.cost_nanousd >= 20_000_000 + 2 * TOKENS_PER_USE * 20_000


# --- the ceiling of whole requests

LONG = "a" * 250_000
REQUESTS: list[tuple[str, GenerationRequest, str, str]] = [
    ("chat", ChatRequest.parse(encoded(messages=[{"role": "user", "content": LONG}], n=2)), "openai", "gpt-5.4"),
    ("chat", ChatRequest.parse(encoded(messages=[{"role": "user", "content": LONG}])), "openai", "gpt-5.6-sol"),
    (
        "messages",
        MessagesRequest.parse(encoded(max_tokens=100, messages=[{"role": "user", "content": LONG}])),
        "anthropic",
        "claude-sonnet-4-5",
    ),
    (
        "messages",
        MessagesRequest.parse(encoded(max_tokens=100, messages=[{"role": "user", "content": "Hi"}])),
        "anthropic",
        "claude-opus-4-8",
    ),
    ("responses", ResponsesRequest.parse(encoded(input=LONG)), "openai", "gpt-5.6-sol"),
    (
        "gemini",
        GeminiRequest.parse(encoded(contents=[{"role": "user", "parts": [{"text": LONG}]}]), "m", False),
        "gemini",
        "gemini-2.5-pro",
    ),
    (
        "gemini",
        GeminiRequest.parse(encoded(contents=[{"role": "user", "parts": [{"text": "Hi"}]}]), "m", False),
        "gemini",
        "gemini-2.5-flash",
    ),
]


def worst_usages(prompt: int, completion: int) -> Iterator[Usage]:
    """Yields usages of which every token is of one kind."""
    for of_prompt in PROMPT_KINDS:
        for of_completion in COMPLETION_KINDS:
            parts = {
                f"{of_prompt}_tokens": prompt,
                f"{of_completion}_tokens": completion,
                **({"cache_write_tokens": prompt} if of_prompt == "cache_write_1h" else {}),
                **({"audio_prompt_tokens": prompt} if of_prompt == "audio_cached" else {}),
                **({"image_prompt_tokens": prompt} if of_prompt == "image_cached" else {}),
            }
            details = Details(**{name: count for name, count in parts.items() if name in Details._fields})
            cached = prompt if of_prompt in ("cached", "audio_cached", "image_cached") else 0
            reasoning = completion if of_completion == "reasoning" else 0
            for tier, region in itertools.product(("", *SERVICE_TIERS), ("", "us")):
                yield Usage(prompt, completion, cached, reasoning, False, tier, details, region)


@pytest.mark.parametrize(("dialect", "request_body", "provider", "model"), REQUESTS)
def test_no_answer_within_its_bounds_costs_more_than_was_reserved(
    dialect: DialectName, request_body: GenerationRequest, provider: str, model: str
) -> None:
    request = request_body.canonical()
    reserved = estimated(request, provider, model, dialect)
    bound = request.max_output_tokens or 100
    most = request.completion_tokens_upper_bound(bound)
    costs = AttemptCosts(pricing())
    spent = [
        costs.of_answer(request, provider, model, usage).nanousd
        for usage in worst_usages(request.prompt_tokens_upper_bound(), most)
    ]
    assert len(spent) == len(PROMPT_KINDS) * len(COMPLETION_KINDS) * 10
    assert max(spent) <= reserved

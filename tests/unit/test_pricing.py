"""Prices: genai-prices agrees to the nano-dollar, overrides win, and no real cost is ever rounded to nothing."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import genai_prices
import pytest
from genai_prices import types
from hypothesis import given
from hypothesis import strategies as st

from app.config.gateway import GatewayConfig
from app.config.prices import PriceOverride
from app.domain.money import NANO, RateCard, TokenRates, format_usd, parse_usd
from app.domain.usage import Usage
from app.gateway.pricing import Pricing

NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)


def pricing(now: Any = lambda: NOON.timestamp(), **overrides: Any) -> Pricing:
    providers = {
        "openai": {"kind": "openai", "base_url": "https://api.openai.com/v1"},
        "google": {"kind": "openai", "base_url": "http://proxy.test/v1", "prices": "google"},
        "local": {"kind": "openai", "base_url": "http://vllm:8000/v1"},
        "demo": {"kind": "demo"},
    }
    config = GatewayConfig.model_validate(
        {"providers": providers, "models": {"m": {"targets": [{"provider": "demo"}]}}}
    )
    prices = {name: {m: PriceOverride.model_validate(p) for m, p in each.items()} for name, each in overrides.items()}
    return Pricing(config=config, overrides=prices, clock=now)


def rate_card(provider: str, model: str, tier: str = "", **overrides: Any) -> RateCard:
    found = pricing(**overrides).rate_card(provider, model, tier)
    assert found is not None
    return found


def test_bug_06_cached_prompt_tokens_have_their_own_rate() -> None:
    # gpt-4.1-mini: $0.40 in, $0.10 cached, $1.60 out, a million
    price = rate_card("openai", "gpt-4.1-mini")
    assert price.cost_nanousd(Usage(1000, 100, cached_tokens=400)) == 600 * 400 + 400 * 100 + 100 * 1600
    assert price.cost_nanousd(Usage(1000, 100, reasoning_tokens=60)) == 1000 * 400 + 100 * 1600, "as output"


@pytest.mark.parametrize("provider", ["openai", "google"])
@pytest.mark.parametrize("prompt", [1, 999, 127_999, 128_000, 128_001, 200_000, 200_001, 272_001, 1_000_000])
def test_it_agrees_with_genai_prices_on_either_side_of_every_tier(provider: str, prompt: int) -> None:
    models = {
        "openai": ("gpt-4.1-mini", "gpt-4o", "gpt-5", "o3", "text-embedding-3-small"),
        "google": ("gemini-2.5-pro", "gemini-1.5-flash", "gemini-2.5-flash"),
    }
    for model, cached in itertools.product(models[provider], (0, prompt // 3)):
        priced = genai_prices.calc_price(
            types.Usage(input_tokens=prompt, cache_read_tokens=cached, output_tokens=777),
            model_ref=model,
            provider_id=provider,
            genai_request_timestamp=NOON,
        )
        ours = rate_card(provider, model).cost_nanousd(Usage(prompt, 777, cached_tokens=cached))
        assert 0 <= ours - priced.total_price * NANO < 1, (model, cached)


def test_a_long_prompt_pays_the_higher_tier_for_everything() -> None:
    price = rate_card("google", "gemini-2.5-pro")
    assert len(price.tiers) > 1
    short, long = price.cost_nanousd(Usage(200_000, 0)), price.cost_nanousd(Usage(200_001, 0))
    assert (short, long) == (200_000 * 1250, 200_001 * 2500)


def test_overrides_win_by_name_then_by_star() -> None:
    mine: dict[str, Any] = {
        "openai": {"gpt-4.1-mini": {"prompt": 7, "cached": "0.5"}, "*": {"prompt": 1, "completion": 2, "request": 3}}
    }
    named, star = rate_card("openai", "gpt-4.1-mini", **mine), rate_card("openai", "gpt-4o", **mine)
    assert named.tiers == (TokenRates(0, 7 * NANO, 0, NANO // 2, 0),)
    assert star.cost_nanousd(Usage(10, 10)) == 10 * 1000 + 10 * 2000 + 3000
    assert star.cost_nanousd(Usage(10, 10, cached_tokens=10, reasoning_tokens=10)) == 10 * 1000 + 10 * 2000 + 3000


def test_a_price_a_call_is_in_dollars_per_million_calls() -> None:
    def price(dollars: str) -> int:
        return rate_card("local", "m", local={"m": {"prompt": 0, "request": dollars}}).cost_nanousd(Usage())

    assert (price("1"), price("1000000"), price("0.0000001")) == (1000, NANO, 1)


def test_an_unknown_model_has_no_price_and_the_demo_is_free() -> None:
    assert pricing().rate_card("openai", "nobody-knows-it") is None
    assert pricing().rate_card("local", "qwen3") is None, "a host of one's own is not a vendor"
    assert rate_card("demo", "anything").cost_nanousd(Usage(10**9, 10**9)) == 0


def test_another_service_tier_has_its_own_price_where_the_vendor_has_one() -> None:
    usual, flex = rate_card("openai", "gpt-5"), rate_card("openai", "gpt-5", "flex")
    usage = Usage(1000, 1000)
    assert flex.cost_nanousd(usage) <= usual.cost_nanousd(usage)
    assert rate_card("openai", "gpt-5", "default").cost_nanousd(usage) == usual.cost_nanousd(usage)


def test_prices_are_read_anew_once_a_minute() -> None:
    now = [NOON.timestamp()]
    priced = pricing(lambda: now[0])
    first = priced.rate_card("openai", "gpt-4.1-mini")
    now[0] += 59
    assert priced.rate_card("openai", "gpt-4.1-mini") is first
    now[0] += 2
    assert priced.rate_card("openai", "gpt-4.1-mini") is not first


rates = st.integers(0, 10**12)
counts = st.integers(0, 10**7)
tiers = st.lists(st.builds(TokenRates, st.integers(1, 10**6), rates, rates, rates, rates), max_size=3).map(
    lambda more: (TokenRates(0, 400, 1600, 100, 1600), *sorted(more, key=lambda tier: tier.above))
)
usages = st.builds(Usage, counts, counts, counts, counts, details=st.none())


@given(tiers, usages)
def test_a_cost_is_exact_rounded_up_once_and_never_above_its_ceiling(
    rows: tuple[TokenRates, ...], usage: Usage
) -> None:
    price = RateCard(rows)
    tier = [row for row in rows if row.above == 0 or usage.prompt_tokens > row.above][-1]
    cached = min(usage.cached_tokens, usage.prompt_tokens)
    reasoning = min(usage.reasoning_tokens, usage.completion_tokens)
    exact = (
        Decimal(
            (usage.prompt_tokens - cached) * tier.prompt
            + cached * tier.cached
            + (usage.completion_tokens - reasoning) * tier.completion
            + reasoning * tier.reasoning
        )
        / 10**6
    )
    cost = price.cost_nanousd(usage)
    assert 0 <= cost - exact < 1
    assert price.max_cost_nanousd(usage.prompt_tokens, usage.completion_tokens) >= cost


def test_the_cheapest_token_there_can_be_still_costs_something() -> None:
    assert RateCard((TokenRates(0, 1, 0, 0, 0),)).cost_nanousd(Usage(1, 0)) == 1


@given(st.integers(-(10**18), 10**18))
def test_dollars_shown_outside_are_the_same_money(amount: int) -> None:
    assert parse_usd(format_usd(amount)) == amount

"""What a call costs: whole nano-dollars, every kind of token at its rate, and never silently nothing."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from genai_prices import Usage as TheirUsage
from genai_prices import calc_price
from hypothesis import given
from hypothesis import strategies as st

from app.domain.config import GatewayConfig, PriceOverride
from app.domain.money import RateCard, Tier, Usage, nanousd, usd
from app.gateway.pricing import Pricing

CONFIG = GatewayConfig.model_validate({
    "providers": {
        "openai": {"kind": "openai", "base_url": "https://api.openai.com/v1"},
        "google": {"kind": "openai", "base_url": "http://127.0.0.1/v1", "prices": "google"},
        "local": {"kind": "openai", "base_url": "http://127.0.0.1:8000/v1"},
        "demo": {"kind": "demo"},
    },
    "models": {"m": {"targets": [{"provider": "demo"}]}},
})  # fmt: skip


def pricing(now: float = 1_795_000_000.0, **overrides: dict[str, Any]) -> Pricing:
    read = {
        provider: {model: PriceOverride.model_validate(price) for model, price in prices.items()}
        for provider, prices in overrides.items()
    }
    return Pricing(config=CONFIG, overrides=read, clock=lambda: now)


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "gpt-4.1-mini"),
        ("openai", "gpt-4o"),
        ("google", "gemini-2.5-pro"),
        ("openai", "text-embedding-3-small"),
    ],
)
@pytest.mark.parametrize(("prompt", "completion", "cached"), [(1000, 100, 0), (1000, 100, 400), (300_000, 7, 0)])
def test_a_card_says_what_genai_prices_says(
    provider: str, model: str, prompt: int, completion: int, cached: int
) -> None:
    card = pricing().card(provider, model)
    assert card is not None
    theirs = calc_price(
        TheirUsage(input_tokens=prompt, output_tokens=completion, cache_read_tokens=cached), model, provider_id=provider
    ).total_price
    ours = Decimal(card.cost_nanousd(Usage(prompt, completion, cached))) / 10**9
    assert abs(ours - theirs) <= Decimal("0.000000001")


def test_bug_06_a_model_that_nobody_knows_has_no_price() -> None:
    assert pricing().card("local", "qwen3") is None
    assert pricing().card("openai", "no-such-model") is None


def test_the_file_overrides_and_completes() -> None:
    card = pricing(local={"qwen3": {"prompt": 1, "completion": 2, "request": 1000}, "*": {"prompt": 0}})
    assert card.card("local", "qwen3") == RateCard((Tier(0, 10**9, 2 * 10**9, 10**9, 2 * 10**9),), per_request=10**12)
    other = card.card("local", "anything else")
    assert other is not None
    assert other.cost_nanousd(Usage(10**6, 10**6)) == 0


def test_the_demo_model_is_free() -> None:
    card = pricing().card("demo", "demo")
    assert card is not None
    assert card.cost_nanousd(Usage(10**6, 10**6)) == 0


def test_service_tiers_have_prices_of_their_own() -> None:
    standard, batch = pricing().card("openai", "gpt-4.1-mini"), pricing().card("openai", "gpt-4.1-mini", "batch")
    assert standard is not None
    assert batch is not None
    assert batch.cost_nanousd(Usage(1000, 1000)) <= standard.cost_nanousd(Usage(1000, 1000))


TIERS = st.lists(st.integers(0, 10**9), min_size=4, max_size=4)


@given(rates=TIERS, above=TIERS, prompt=st.integers(0, 10**6), completion=st.integers(0, 10**5), share=st.floats(0, 1))
def test_bug_03_no_call_costs_more_than_its_ceiling(
    rates: list[int], above: list[int], prompt: int, completion: int, share: float
) -> None:
    card = RateCard((Tier(0, *rates), Tier(1000, *above)))
    usage = Usage(prompt, completion, int(prompt * share), int(completion * share))
    assert card.cost_nanousd(usage) <= card.ceiling_nanousd(prompt, completion)


def test_a_real_cost_is_never_rounded_to_nothing() -> None:
    assert RateCard((Tier(0, 1, 1, 1, 1),)).cost_nanousd(Usage(1, 0)) == 1


@given(st.integers(-(10**15), 10**15))
def test_dollars_outside_are_nano_dollars_inside(amount: int) -> None:
    assert nanousd(usd(amount)) == amount
    assert "e" not in usd(amount).lower()

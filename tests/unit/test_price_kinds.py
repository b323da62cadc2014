"""Every kind that a vendor bills has its price, and no call costs more than its ceiling: over all of genai-prices."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from pathlib import Path

import pytest
import yaml
from genai_prices import types
from genai_prices.data_snapshot import get_snapshot
from genai_prices.data_units import unit_data
from hypothesis import given, settings
from hypothesis import strategies as st

from app.config.gateway import GatewayConfig
from app.config.prices import PriceOverride
from app.domain.money import COMPLETION_KINDS, NANO, PROMPT_KINDS, TokenRates
from app.domain.usage import SERVICE_TIERS, Details, Usage
from app.gateway.price_catalogue import CONTEXTS, FEES, RATES, SOLD_ELSEWHERE
from app.gateway.pricing import Pricing

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
UNITS = {unit["price_key"]: unit for unit in unit_data.values()}
TIER_OF = [(context, tier) for tier, contexts in CONTEXTS.items() for context in contexts]
# What else can select a price: no answer tells it. The ceiling counts it.
NOT_TOLD = {"route", "search_type"}


def pricing(provider: str = "openai", overrides: Mapping[str, object] | None = None) -> Pricing:
    config = GatewayConfig.model_validate(
        {
            "providers": {"up": {"kind": "openai", "base_url": "http://up.test/v1", "prices": provider}},
            "models": {"m": {"targets": [{"provider": "up"}]}},
        }
    )
    prices = {name: PriceOverride.model_validate(price) for name, price in (overrides or {}).items()}
    return Pricing(config=config, overrides={"up": prices}, clock=NOW.timestamp)


def models() -> Iterator[tuple[types.Provider, types.ModelInfo]]:
    """Every model that its own provider's look-up finds, once for each set of prices."""
    seen = set()
    for provider in get_snapshot().providers:
        for model in provider.models:
            shape = (repr(model.prices), repr(model.price_variants))
            if shape not in seen and provider.find_model(model.id) is model:
                seen.add(shape)
                yield provider, model


def prices_of(model: types.ModelInfo) -> Iterator[types.ModelPrice]:
    if isinstance(model.prices, types.ModelPrice):
        yield model.prices
    else:
        yield from (conditional.prices for conditional in model.prices)
    yield from (variant.prices for variant in model.price_variants or ())


def unread_fields(price: types.ModelPrice) -> set[str]:
    named = {key for key, value in vars(price).items() if value is not None}
    return named - set(RATES.values()) - set(FEES) - set(SOLD_ELSEWHERE)


def test_every_kind_of_price_that_the_package_knows_is_read() -> None:
    unknown = {key for _, model in models() for price in prices_of(model) for key in unread_fields(price)}
    assert unknown == set(), "add it to RATES or FEES of app/gateway/price_catalogue.py, or say why it cannot be billed"
    assert unread_fields(types.ModelPrice(input_mtok=None, input_smell_mtok=Decimal(1))) == {"input_smell_mtok"}
    assert set(RATES) == {*PROMPT_KINDS, *COMPLETION_KINDS}


def test_every_service_tier_that_the_package_prices_is_known() -> None:
    for _, model in models():
        for variant in model.price_variants or ():
            told = {key: value for key, value in variant.when.items() if key not in NOT_TOLD}
            assert told in ({}, {"service_tier": "default"}, *(context for context, _ in TIER_OF)), model.id


def counted(usage: Usage) -> types.Usage:
    """Returns the count of genai-prices for `usage`: each of its units has the tokens of every narrower kind."""
    parts = usage.prompt_parts() | usage.completion_parts()
    found = {}
    for name, unit in unit_data.items():
        wanted = unit["dimensions"].items()
        if unit["dimensions"]["family"] == "tokens":
            kinds = [kind for kind in parts if wanted <= UNITS[RATES[kind]]["dimensions"].items()]
            found[name] = sum(parts[kind] for kind in kinds)
    details = usage.details or Details()
    seconds = {"audio_seconds": details.audio_seconds, "input_audio_seconds": details.audio_seconds}
    searches = {"web_searches": details.searches, "storage_searches": details.file_searches}
    characters = {"input_characters": details.characters}
    return types.Usage(**found, **seconds, output_audio_seconds=0, **searches, **characters)


def some_usage(draw: random.Random, prompt: int) -> Usage:
    """Any: parts may add up to more than the whole."""
    completion = draw.choice([0, 1, 777, 40_000])

    def part(whole: int) -> int:
        return draw.choice([0, 0, 1, whole // 5, whole // 3, whole])

    details = Details(*(part(completion if "completion" in name else prompt) for name in Details._fields))
    details = details._replace(
        searches=draw.choice([0, 1, 7]), file_searches=draw.choice([0, 0, 3]), audio_seconds=draw.choice([0, 1, 61])
    )
    return Usage(prompt, completion, part(prompt), part(completion), details=details)


@pytest.mark.slow
def test_the_cost_is_that_of_genai_prices_for_every_model_it_knows() -> None:
    draw = random.Random(3)
    priced = 0
    for provider, model in models():
        mine = pricing(provider.id)
        named = [variant.when for variant in model.price_variants or ()]
        for context, tier in [({}, ""), *((context, tier) for context, tier in TIER_OF if context in named)]:
            card = mine.rate_card("up", model.id, tier)
            price = model.get_prices(NOW, context)
            if card is None:
                assert price.input_mtok is price.output_mtok is None, model.id
                assert price.input_mchars is price.audio_hours is price.input_audio_hours is None, model.id
                continue
            priced += 1
            lengths = [tier.above + 1 for tier in card.tiers] + [tier.above for tier in card.tiers[1:]]
            for prompt in [draw.randrange(100_000)] if len(lengths) == 1 else lengths:
                usage = some_usage(draw, prompt)
                theirs = model.calc_price(
                    counted(usage), provider, genai_request_timestamp=NOW, price_context=context
                ).total_price
                assert 0 <= card.cost_nanousd(usage) - theirs * NANO < 2, (provider.id, model.id, context, usage)
    assert priced > 800


@cache
def everything_priced() -> list[tuple[Pricing, str]]:
    found = [(pricing(provider.id), model.id) for provider, model in models()]
    return [(mine, name) for mine, name in found if mine.max_cost_nanousd("up", name, 0, 0, 1) is not None]


counts = st.integers(0, 2_000_000)
details = st.builds(Details, *[counts] * 11, file_searches=counts)


@pytest.mark.slow
@settings(max_examples=400, deadline=None)  # the first example reads all prices
@given(st.data(), st.builds(Usage, counts, counts, counts, counts, details=details), counts)
def test_no_call_costs_more_than_its_ceiling(data: st.DataObject, usage: Usage, searches: int) -> None:
    mine, model = data.draw(st.sampled_from(everything_priced()))
    card = mine.rate_card("up", model, data.draw(st.sampled_from(["", *SERVICE_TIERS])))
    assert card is not None
    found = (usage.details or Details())._replace(searches=searches)
    if card.file_search is None:
        found = found._replace(file_searches=0)
    usage = usage._replace(details=found, inference_geo=data.draw(st.sampled_from(["", "us", "elsewhere"])))
    most = usage.prompt_tokens, usage.completion_tokens, searches, found.file_searches
    ceiling = mine.max_cost_nanousd("up", model, *most)
    assert ceiling is not None
    assert card.cost_nanousd(usage) <= ceiling
    assert card.max_cost_nanousd(*most) >= card.cost_nanousd(usage)


@given(st.builds(Usage))
def test_the_parts_of_a_usage_are_the_whole_whatever_was_reported(usage: Usage) -> None:
    prompt, completion = usage.prompt_parts(), usage.completion_parts()
    assert min(*prompt.values(), *completion.values()) >= 0
    assert sum(prompt.values()) == max(usage.prompt_tokens, 0)
    assert sum(completion.values()) == max(usage.completion_tokens, 0)


def test_a_kind_without_a_rate_of_its_own_costs_what_the_wider_kind_costs() -> None:
    tier = TokenRates.from_kinds(0, {"prompt": 10, "completion": 20})
    assert {kind: tier.rate(kind) for kind in PROMPT_KINDS} == dict.fromkeys(PROMPT_KINDS, 10)
    assert {kind: tier.rate(kind) for kind in COMPLETION_KINDS} == dict.fromkeys(COMPLETION_KINDS, 20)
    tier = TokenRates.from_kinds(0, {"prompt": 10, "cached": 1, "cache_write": 12})
    assert (tier.rate("audio_cached"), tier.rate("audio_prompt"), tier.rate("cache_write_1h")) == (1, 10, 12)
    assert TokenRates.from_kinds(0, {"prompt": 10, "cached": 1, "audio_prompt": 100}).rate("audio_cached") == 100


def test_every_kind_can_be_priced_in_the_configuration() -> None:
    price = {kind: place + 1 for place, kind in enumerate(RATES)} | {"request": 3_000_000, "search": 25_000}
    price["file_search"] = 2500
    price |= {"image": 40_000, "audio_second": 100, "character": 15}
    card = pricing(overrides={"m": price}).rate_card("up", "m")
    assert card is not None
    assert (card.image, card.audio_second, card.character) == (40_000 * NANO, 100 * NANO, 15 * NANO)
    assert [card.tiers[0].rate(kind) for kind in RATES] == [(place + 1) * NANO for place in range(len(RATES))]
    assert (card.per_request, card.search, card.file_search) == (3 * NANO, 25_000 * NANO, 2500 * NANO)
    assert card.cost_nanousd(Usage(details=Details(searches=2))) == 3 * NANO + 2 * NANO * 25 // 1000


@pytest.mark.parametrize("model", ["gpt-4.1-mini", "nobody-knows-it"])
def test_what_a_caller_or_a_vendor_calls_a_service_tier_is_not_kept(model: str) -> None:
    mine = pricing()
    usual = mine.rate_card("up", model)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(1000):
        assert mine.rate_card("up", model, f"{number:0>100000}") is usual
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 1_000_000


def test_no_shipped_model_writes_longer_answers_than_its_catalogue_says() -> None:
    """The catalogue knows no longest answer, only `context_window`; an embedding has no answer."""
    shipped = GatewayConfig.model_validate(yaml.safe_load(Path("config/gateway.yaml").read_text()))
    for alias, model in shipped.models.items():
        vendor = {"gpt": "openai", "claude": "anthropic", "gemini": "google"}.get(alias.partition("-")[0])
        if vendor is not None and model.kind == "chat":
            window = get_snapshot().find_provider_model(alias, None, vendor, None)[1].context_window
            if window is None:  # the catalogue has none for this one
                assert alias in ("gemini-2.5-pro", "gemini-3.1-pro-preview"), alias
                continue
            assert model.max_output_tokens < window

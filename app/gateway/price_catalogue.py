"""Price catalogue: rate cards made of the prices that the genai-prices package knows.

It takes the package 0.14 ms to price one call: its prices are turned into whole-number rate cards instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import ROUND_CEILING, Decimal
from importlib.metadata import version

from genai_prices import types
from genai_prices.data_snapshot import get_snapshot

from app.config.providers import ProviderConfig
from app.domain.money import COMPLETION_KINDS, NANO, PROMPT_KINDS, RateCard, TokenRates
from app.domain.usage import SERVICE_TIERS

_VERSION = f"genai-prices {version('genai-prices')}"
# The steps, up to a day, in which a maximum looks ahead for prices that change with the date or the hour.
_LOOK_AHEAD = [timedelta(minutes=30 * i) for i in range(49)]


# The contexts in which genai-prices has prices of their own, by our name of the service tier: its own name at OpenAI
# and Google; batches, and Anthropic's fast mode, are none at theirs.
CONTEXTS: dict[str, tuple[dict[str, str], ...]] = {tier: ({"service_tier": tier},) for tier in SERVICE_TIERS} | {
    "batch": ({"processing": "batch"},),
    "fast": ({"service_tier": "fast"}, {"speed": "fast"}),
}
# What tokens cost of their usual price in a region, by genai-prices' id of the provider: the package does not know it.
# Anthropic's documents, "Data residency": 1.1 times where `inference_geo` is "us".
_REGION_PERCENT = {"anthropic": {"us": 110}}
# The seconds that a recording is billed for at the least, likewise. Groq's documents, "Speech to Text".
_LEAST_SECONDS = {"groq": 10}
# genai-prices' name of each rate, by our name of the kind of token. It prices a token at the rate of the narrowest kind
# that has one (`genai_prices.decompose.compute_leaf_values`), as `TokenRates.rate` does.
RATES = {
    "prompt": "input_mtok",
    "completion": "output_mtok",
    "cached": "cache_read_mtok",
    "reasoning": "output_reasoning_mtok",
    "cache_write": "cache_write_mtok",
    "cache_write_1h": "cache_write_1h_mtok",
    "audio_prompt": "input_audio_mtok",
    "audio_cached": "cache_audio_read_mtok",
    "audio_completion": "output_audio_mtok",
    "image_prompt": "input_image_mtok",
    "image_cached": "cache_image_read_mtok",
    "image_completion": "output_image_mtok",
    "video_prompt": "input_video_mtok",
    "video_completion": "output_video_mtok",
    "citation": "output_citation_mtok",
}
# Fees for other units than tokens.
UNITS = ("input_mchars", "audio_hours", "input_audio_hours")  # by which a model may be billed alone
FEES = ("requests_kcount", "web_searches_kcount", "storage_searches_kcount", *UNITS)
# Units that no call here is billed in, and the endpoints that are.
SOLD_ELSEWHERE = {
    "input_document_kpages": "OCR",
    "input_annotated_document_kpages": "OCR",
    "input_text_messages_kcount": "voice sessions",
}


@dataclass(frozen=True, slots=True)
class ModelPrices:
    """The rate cards of one upstream model: standard, of service tiers with their own, and of the highest rates."""

    standard: RateCard
    tiers: Mapping[str, RateCard]
    highest: RateCard


@dataclass(frozen=True, slots=True)
class _Terms:
    """Surcharges of a provider, as in `RateCard`."""

    region_percent: Mapping[str, int]
    least_seconds: int


def find_prices(config: ProviderConfig, model: str, at: datetime) -> ModelPrices | None:
    """Returns the rate cards of `model` at a provider; None when the package does not know it."""
    found = find_model(config, model)
    if found is None:
        return None
    provider, info = found
    terms = _Terms(_REGION_PERCENT.get(provider.id, {}), _LEAST_SECONDS.get(provider.id, 0))
    standard = _rate_card(info.get_prices(at), terms)
    if standard is None:
        return None
    tiers = {}
    for variant in info.price_variants or ():
        for tier, contexts in CONTEXTS.items():
            card = _rate_card(info.get_prices(at, variant.when), terms) if variant.when in contexts else None
            if card is not None:
                tiers[tier] = card
    return ModelPrices(standard, tiers, _highest_rates(_possible_prices(info, at), terms))


def find_model(config: ProviderConfig, model: str) -> tuple[types.Provider, types.ModelInfo] | None:
    """Returns what the package knows of `model`, and of the vendor whose it is; None for what it does not know."""
    try:
        if config.prices is not None:
            return get_snapshot().find_provider_model(model, None, config.prices, None)
        return get_snapshot().find_provider_model(model, None, None, config.base_url)
    except LookupError:
        return None


def _possible_prices(info: types.ModelInfo, at: datetime) -> Iterator[types.ModelPrice]:
    """Yields every price that a call admitted at this time may be billed by, in whole or in part."""
    yield from {id(price): price for price in (info.get_prices(at + ahead) for ahead in _LOOK_AHEAD)}.values()
    for variant in info.price_variants or ():
        if variant.constraint is None or any(variant.constraint.active(at + ahead) for ahead in _LOOK_AHEAD):
            yield variant.prices


def _rate_card(price: types.ModelPrice, terms: _Terms) -> RateCard | None:
    if not _has_token_rates(price) and all(getattr(price, unit) is None for unit in UNITS):
        return None
    known = {kind: rate for kind, name in RATES.items() if (rate := getattr(price, name)) is not None}
    tiered = [rate for rate in known.values() if isinstance(rate, types.TieredPrices)]
    starts = sorted({0} | {tier.start for rate in tiered for tier in rate.tiers})
    return RateCard(
        tuple(
            TokenRates.from_kinds(start, {kind: to_nanousd(_price_above(rate, start)) for kind, rate in known.items()})
            for start in starts
        ),
        per_request=_request_fee(price),
        search=_search_rate(price),
        audio_second=_audio_second_rate(price),
        file_search=_file_search_rate(price),
        region_percent=terms.region_percent,
        least_seconds=terms.least_seconds,
        version=_VERSION,
        character=to_nanousd(_highest_price(price.input_mchars)),
        has_token_rates=_has_token_rates(price),
    )


def _highest_rates(prices: Iterable[types.ModelPrice], terms: _Terms) -> RateCard:
    """Returns a card whose every rate is the highest that any of the prices names for a kind of its direction."""
    given = list(prices)
    prompt, completion = (
        max(to_nanousd(_highest_price(getattr(price, RATES[kind]))) for price in given for kind in kinds)
        for kinds in (PROMPT_KINDS, COMPLETION_KINDS)
    )
    searches = [rate for price in given if (rate := _search_rate(price)) is not None]
    file_searches = [rate for price in given if (rate := _file_search_rate(price)) is not None]
    return RateCard(
        (TokenRates(0, prompt, completion, prompt, completion),),
        per_request=max(map(_request_fee, given)),
        search=max(searches, default=None),
        audio_second=max(map(_audio_second_rate, given)),
        file_search=max(file_searches, default=None),
        region_percent=terms.region_percent,
        least_seconds=terms.least_seconds,
        character=max(to_nanousd(_highest_price(price.input_mchars)) for price in given),
        has_token_rates=any(map(_has_token_rates, given)),  # a variant names only what differs
    )


def _has_token_rates(price: types.ModelPrice) -> bool:
    return price.input_mtok is not None or price.output_mtok is not None


def _request_fee(price: types.ModelPrice) -> int:
    return -(-to_nanousd(_highest_price(price.requests_kcount)) // 1000)


def _search_rate(price: types.ModelPrice) -> int | None:
    if price.web_searches_kcount is not None:
        return to_nanousd(_highest_price(price.web_searches_kcount) * 1000)
    # A price a request, as Perplexity has it, is the price of its search.
    return None if price.requests_kcount is None else 0


def _file_search_rate(price: types.ModelPrice) -> int | None:
    rate = price.storage_searches_kcount
    return None if rate is None else to_nanousd(_highest_price(rate) * 1000)


def _audio_second_rate(price: types.ModelPrice) -> int:
    rate = price.audio_hours if price.input_audio_hours is None else price.input_audio_hours
    return to_nanousd(_highest_price(rate) * 1_000_000 / 3600)


def _price_above(price: Decimal | types.TieredPrices, start: int) -> Decimal:
    """Returns the price that holds above `start` prompt tokens."""
    if isinstance(price, Decimal):
        return price
    found = price.base
    for tier in price.tiers:
        if start and tier.start <= start:
            found = tier.price
    return found


def _highest_price(price: Decimal | types.TieredPrices | None) -> Decimal:
    if price is None:
        return Decimal(0)
    return price if isinstance(price, Decimal) else max([price.base, *(tier.price for tier in price.tiers)])


def to_nanousd(dollars: Decimal) -> int:
    """Returns nano-dollars, rounded up: a price is never rounded to nothing."""
    return int((dollars * NANO).to_integral_value(ROUND_CEILING))

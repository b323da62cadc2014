"""Pricing: rate cards of upstream models, from `config/prices.yaml` first, then from the genai-prices package.

genai-prices takes 0.14 ms to price one call, so its prices are turned into whole-number rate cards, read anew
once a minute because some prices depend on the date or the hour.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_CEILING, Decimal
from importlib.metadata import version

from genai_prices import types
from genai_prices.data_snapshot import get_snapshot

from app.config.gateway import GatewayConfig
from app.config.prices import PriceOverride
from app.config.providers import ProviderConfig
from app.domain.money import COMPLETION_KINDS, FREE, NANO, PROMPT_KINDS, RateCard, TokenRates
from app.domain.usage import SERVICE_TIERS, Details, Usage

_REFRESH_S = 60.0
_MAX_CACHED_MODELS = 10_000
_GENAI_PRICES = f"genai-prices {version('genai-prices')}"
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
class _Prices:
    """The rate cards of one upstream model: standard, of service tiers with their own, and of the highest rates."""

    standard: RateCard
    tiers: Mapping[str, RateCard]
    highest: RateCard


@dataclass(frozen=True, slots=True)
class _Terms:
    """What a provider adds to its prices, as in `RateCard`."""

    region_percent: Mapping[str, int]
    least_seconds: int


class Pricing:
    """Rate cards by provider name, upstream model and service tier.

    The cache is keyed by names of the configuration alone, by nothing that a caller or a vendor wrote.
    """

    def __init__(
        self,
        *,
        config: GatewayConfig,
        overrides: Mapping[str, Mapping[str, PriceOverride]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._providers = config.providers
        self._overrides = overrides
        self._overrides_version = _version_of(overrides)
        self._clock = clock
        self._prices: dict[tuple[str, str], _Prices | None] = {}
        self._read_at = 0.0

    def rate_card(self, provider: str, model: str, service_tier: str = "") -> RateCard | None:
        """Returns the rates of `model` at `provider`; None when they are unknown (never silently free).

        A service tier without a price of its own costs the standard rate.
        """
        prices = self._prices_of(provider, model)
        return None if prices is None else prices.tiers.get(service_tier, prices.standard)

    def kind(self, provider: str) -> str:
        """Returns the kind of a provider, as the configuration names it."""
        return self._providers[provider].kind

    def trusts_reported_cost(self, provider: str) -> bool:
        """Says whether a call costs what this provider reports, where it does, and not what our prices say."""
        return self._providers[provider].trusts_reported_cost

    def max_cost_nanousd(
        self,
        provider: str,
        model: str,
        prompt_tokens: int,
        completion_tokens: int,
        searches: int = 0,
        file_searches: int = 0,
        units: Details | None = None,
    ) -> int | None:
        """Returns the most that a call with at most these can cost, whichever service tier the vendor bills.

        A vendor need not honour the tier that the caller asked for, and a queued call may run tomorrow: every price
        that the model has now or within a day counts. `units` is what the call is billed by besides tokens, if it is
        known. None when there is no known maximum.
        """
        prices = self._prices_of(provider, model)
        # The length of a recording does not show in the size of a prompt.
        if prices is None or (units is None and prices.highest.audio_second):
            return None
        highest = prices.highest
        if not highest.can_price(Usage(details=units)):
            return None
        if (searches and highest.search is None) or (file_searches and highest.file_search is None):
            return None
        cost = highest.max_cost_nanousd(prompt_tokens, completion_tokens, searches, file_searches)
        return cost if units is None else cost + highest.units_nanousd(units)

    def context_window(self, provider: str, model: str) -> int | None:
        """Returns the longest prompt that `model` at `provider` takes, in tokens, if genai-prices says."""
        config = self._providers[provider]
        found = None if config.is_built_in else _model_info(config, model)
        return None if found is None else found[1].context_window

    def _prices_of(self, provider: str, model: str) -> _Prices | None:
        now = self._clock()
        if now - self._read_at >= _REFRESH_S or len(self._prices) > _MAX_CACHED_MODELS:
            self._prices.clear()
            self._read_at = now
        key = (provider, model)
        if key not in self._prices:
            self._prices[key] = self._find(provider, model, datetime.fromtimestamp(now, UTC))
        return self._prices[key]

    def _find(self, provider: str, model: str, at: datetime) -> _Prices | None:
        named = self._overrides.get(provider, {})
        override = named.get(model) or named.get("*")
        if override is not None:
            return _single_card(_from_override(override, self._overrides_version))
        config = self._providers[provider]
        if config.is_built_in:
            return _single_card(FREE)
        found = _model_info(config, model)
        if found is None:
            return None
        return _from_genai_prices(
            found[1], at, _Terms(_REGION_PERCENT.get(found[0].id, {}), _LEAST_SECONDS.get(found[0].id, 0))
        )


def _single_card(card: RateCard) -> _Prices:
    return _Prices(card, {}, card)


def _version_of(overrides: Mapping[str, Mapping[str, PriceOverride]]) -> str:
    """Returns a name for these prices of the operator's own: the same for the same prices."""
    text = {name: {model: price.model_dump_json() for model, price in each.items()} for name, each in overrides.items()}
    digest = hashlib.sha256(json.dumps(text, sort_keys=True).encode()).hexdigest()
    return f"prices.yaml {digest[:8]}"


def _from_override(price: PriceOverride, version: str) -> RateCard:
    rates = {kind: _to_nanousd(dollars) for kind in RATES if (dollars := getattr(price, kind)) is not None}
    per_request = -(-_to_nanousd(price.request) // 1_000_000)  # dollars per million calls; up, so never to nothing
    search = None if price.search is None else _to_nanousd(price.search)
    file_search = None if price.file_search is None else _to_nanousd(price.file_search)
    return RateCard(
        (TokenRates.from_kinds(0, rates),),
        per_request=per_request,
        search=search,
        file_search=file_search,
        version=version,
        image=_to_nanousd(price.image),
        audio_second=_to_nanousd(price.audio_second),
        character=_to_nanousd(price.character),
    )


def _model_info(config: ProviderConfig, model: str) -> tuple[types.Provider, types.ModelInfo] | None:
    try:
        if config.prices is not None:
            return get_snapshot().find_provider_model(model, None, config.prices, None)
        return get_snapshot().find_provider_model(model, None, None, config.base_url)
    except LookupError:
        return None


def _from_genai_prices(info: types.ModelInfo, at: datetime, terms: _Terms) -> _Prices | None:
    standard = _rate_card(info.get_prices(at), terms)
    if standard is None:
        return None
    tiers = {}
    for variant in info.price_variants or ():
        for tier, contexts in CONTEXTS.items():
            card = _rate_card(info.get_prices(at, variant.when), terms) if variant.when in contexts else None
            if card is not None:
                tiers[tier] = card
    return _Prices(standard, tiers, _highest_rates(_possible_prices(info, at), terms))


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
            TokenRates.from_kinds(start, {kind: _to_nanousd(_price_above(rate, start)) for kind, rate in known.items()})
            for start in starts
        ),
        per_request=_request_fee(price),
        search=_search_rate(price),
        audio_second=_audio_second_rate(price),
        file_search=_file_search_rate(price),
        region_percent=terms.region_percent,
        least_seconds=terms.least_seconds,
        version=_GENAI_PRICES,
        character=_to_nanousd(_highest_price(price.input_mchars)),
        has_token_rates=_has_token_rates(price),
    )


def _highest_rates(prices: Iterable[types.ModelPrice], terms: _Terms) -> RateCard:
    """Returns a card whose every rate is the highest that any of the prices names for a kind of its direction."""
    given = list(prices)
    prompt, completion = (
        max(_to_nanousd(_highest_price(getattr(price, RATES[kind]))) for price in given for kind in kinds)
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
        character=max(_to_nanousd(_highest_price(price.input_mchars)) for price in given),
        has_token_rates=any(map(_has_token_rates, given)),  # a variant names only what differs
    )


def _has_token_rates(price: types.ModelPrice) -> bool:
    return price.input_mtok is not None or price.output_mtok is not None


def _request_fee(price: types.ModelPrice) -> int:
    return -(-_to_nanousd(_highest_price(price.requests_kcount)) // 1000)


def _search_rate(price: types.ModelPrice) -> int | None:
    if price.web_searches_kcount is not None:
        return _to_nanousd(_highest_price(price.web_searches_kcount) * 1000)
    # A price a request, as Perplexity has it, is the price of its search.
    return None if price.requests_kcount is None else 0


def _file_search_rate(price: types.ModelPrice) -> int | None:
    rate = price.storage_searches_kcount
    return None if rate is None else _to_nanousd(_highest_price(rate) * 1000)


def _audio_second_rate(price: types.ModelPrice) -> int:
    rate = price.audio_hours if price.input_audio_hours is None else price.input_audio_hours
    return _to_nanousd(_highest_price(rate) * 1_000_000 / 3600)


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


def _to_nanousd(dollars: Decimal) -> int:
    """Returns nano-dollars, rounded up: a price is never rounded to nothing."""
    return int((dollars * NANO).to_integral_value(ROUND_CEILING))

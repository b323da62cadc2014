"""Pricing: rate cards of upstream models, from `config/prices.yaml` first, then from the catalogue of genai-prices.

They are read anew once a minute because some prices depend on the date or the hour.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from app.config.gateway import GatewayConfig
from app.config.prices import PriceOverride
from app.domain.money import FREE, RateCard, TokenRates
from app.domain.usage import Details, Usage
from app.gateway.price_catalogue import RATES, ModelPrices, find_model, find_prices, to_nanousd

_REFRESH_S = 60.0
_MAX_CACHED_MODELS = 10_000


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
        self._prices: dict[tuple[str, str], ModelPrices | None] = {}
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
        found = None if config.is_built_in else find_model(config, model)
        return None if found is None else found[1].context_window

    def _prices_of(self, provider: str, model: str) -> ModelPrices | None:
        now = self._clock()
        if now - self._read_at >= _REFRESH_S or len(self._prices) > _MAX_CACHED_MODELS:
            self._prices.clear()
            self._read_at = now
        key = (provider, model)
        if key not in self._prices:
            self._prices[key] = self._find(provider, model, datetime.fromtimestamp(now, UTC))
        return self._prices[key]

    def _find(self, provider: str, model: str, at: datetime) -> ModelPrices | None:
        named = self._overrides.get(provider, {})
        override = named.get(model) or named.get("*")
        if override is not None:
            return _single_card(_from_override(override, self._overrides_version))
        config = self._providers[provider]
        if config.is_built_in:
            return _single_card(FREE)
        return find_prices(config, model, at)


def _single_card(card: RateCard) -> ModelPrices:
    return ModelPrices(card, {}, card)


def _version_of(overrides: Mapping[str, Mapping[str, PriceOverride]]) -> str:
    """Returns a name for these prices of the operator's own: the same for the same prices."""
    text = {name: {model: price.model_dump_json() for model, price in each.items()} for name, each in overrides.items()}
    digest = hashlib.sha256(json.dumps(text, sort_keys=True).encode()).hexdigest()
    return f"prices.yaml {digest[:8]}"


def _from_override(price: PriceOverride, version: str) -> RateCard:
    rates = {kind: to_nanousd(dollars) for kind in RATES if (dollars := getattr(price, kind)) is not None}
    per_request = -(-to_nanousd(price.request) // 1_000_000)  # dollars per million calls; up, so never to nothing
    search = None if price.search is None else to_nanousd(price.search)
    file_search = None if price.file_search is None else to_nanousd(price.file_search)
    return RateCard(
        (TokenRates.from_kinds(0, rates),),
        per_request=per_request,
        search=search,
        file_search=file_search,
        version=version,
        image=to_nanousd(price.image),
        audio_second=to_nanousd(price.audio_second),
        character=to_nanousd(price.character),
    )

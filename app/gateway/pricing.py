"""What an upstream model costs: `config/prices.yaml` first, then the genai-prices package.

genai-prices takes 0.14 ms to price one call, so its prices are turned into whole-number rate cards, read anew
once a minute because some prices depend on the date or the hour.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal

from genai_prices import types
from genai_prices.data_snapshot import get_snapshot

from app.domain.config import GatewayConfig, PriceOverride, ProviderConfig
from app.domain.money import FREE, NANO, RateCard, Tier

_REFRESH_S = 60.0
_MOST_CARDS = 10_000


class Pricing:
    """Rate cards by provider name, upstream model and service tier."""

    def __init__(
        self,
        *,
        config: GatewayConfig,
        overrides: Mapping[str, Mapping[str, PriceOverride]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._providers = config.providers
        self._overrides = overrides
        self._clock = clock
        self._cards: dict[tuple[str, str, str], RateCard | None] = {}
        self._read_at = 0.0

    def card(self, provider: str, model: str, service_tier: str = "") -> RateCard | None:
        """The price of `model` at `provider`; None when nobody knows it (never silently free)."""
        now = self._clock()
        if now - self._read_at >= _REFRESH_S or len(self._cards) > _MOST_CARDS:
            self._cards.clear()
            self._read_at = now
        key = (provider, model, service_tier)
        if key not in self._cards:
            self._cards[key] = self._find(provider, model, service_tier, now)
        return self._cards[key]

    def _find(self, provider: str, model: str, service_tier: str, now: float) -> RateCard | None:
        named = self._overrides.get(provider, {})
        override = named.get(model) or named.get("*")
        if override is not None:
            return _from_override(override)
        config = self._providers[provider]
        if config.kind == "demo":
            return FREE
        return _from_genai_prices(config, model, service_tier, datetime.fromtimestamp(now, UTC))


def _from_override(price: PriceOverride) -> RateCard:
    prompt, completion = _per_mtok(price.prompt), _per_mtok(price.completion)
    cached = prompt if price.cached is None else _per_mtok(price.cached)
    reasoning = completion if price.reasoning is None else _per_mtok(price.reasoning)
    per_request = -(-_per_mtok(price.request) // 1_000_000)  # dollars per million calls; up, so never to nothing
    return RateCard((Tier(0, prompt, completion, cached, reasoning),), per_request=per_request)


def _from_genai_prices(config: ProviderConfig, model: str, service_tier: str, now: datetime) -> RateCard | None:
    try:
        if config.prices is not None:
            _, info = get_snapshot().find_provider_model(model, None, config.prices, None)
        else:
            _, info = get_snapshot().find_provider_model(model, None, None, config.base_url)
    except LookupError:
        return None
    context = {"service_tier": service_tier} if service_tier not in ("", "default", "auto", "standard") else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a price key newer than this version of the package
        price = info.get_prices(now, context)
    return _card(price)


def _card(price: types.ModelPrice) -> RateCard | None:
    prompt, completion = price.input_mtok, price.output_mtok
    if prompt is None and completion is None:
        return None
    cached = prompt if price.cache_read_mtok is None else price.cache_read_mtok
    kinds = (prompt, completion, cached)
    starts = sorted({0} | {tier.start for kind in kinds if isinstance(kind, types.TieredPrices) for tier in kind.tiers})
    tiers = []
    for start in starts:
        rates = [_per_mtok(_at(kind, start)) for kind in kinds]
        # genai-prices has no rate of its own for reasoning: vendors bill it as output.
        tiers.append(Tier(start, rates[0], rates[1], rates[2], rates[1]))
    per_thousand = price.requests_kcount
    per_request = 0 if per_thousand is None else int(_at(per_thousand, 0) * NANO / 1000)
    return RateCard(tuple(tiers), per_request=per_request)


def _at(price: Decimal | types.TieredPrices | None, start: int) -> Decimal:
    """The price that holds above `start` prompt tokens."""
    if price is None:
        return Decimal(0)
    if isinstance(price, Decimal):
        return price
    found = price.base
    for tier in price.tiers:
        if start and tier.start <= start:
            found = tier.price
    return found


def _per_mtok(dollars: Decimal) -> int:
    return int((dollars * NANO).to_integral_value())

"""What an upstream model costs: `config/prices.yaml` first, then the genai-prices package.

genai-prices takes 0.14 ms to price one call, so its prices are turned into whole-number rate cards, read anew
once a minute because some prices depend on the date or the hour.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from genai_prices import types
from genai_prices.data_snapshot import get_snapshot

from app.domain.config import GatewayConfig, PriceOverride, ProviderConfig
from app.domain.money import FREE, NANO, RateCard, Tier

_REFRESH_S = 60.0
_MOST_CARDS = 10_000
# How far ahead a ceiling looks for prices that change with the date or the hour, and how closely.
_AHEAD = [timedelta(minutes=30 * i) for i in range(49)]


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
        self._dearest: dict[tuple[str, str], RateCard | None] = {}
        self._read_at = 0.0

    def card(self, provider: str, model: str, service_tier: str = "") -> RateCard | None:
        """The price of `model` at `provider`; None when nobody knows it (never silently free)."""
        now = self._now()
        key = (provider, model, service_tier)
        if key not in self._cards:
            self._cards[key] = self._find(provider, model, service_tier, now)
        return self._cards[key]

    def ceiling_nanousd(self, provider: str, model: str, prompt_tokens: int, completion_tokens: int) -> int | None:
        """The most that a call with at most these tokens can cost, whichever service tier the vendor bills.

        A vendor need not honour the tier that the caller asked for, and a queued call may run tomorrow: every price
        that the model has now or within a day counts. None when nobody knows the price.
        """
        now = self._now()
        key = (provider, model)
        if key not in self._dearest:
            self._dearest[key] = self._find_dearest(provider, model, now)
        card = self._dearest[key]
        return None if card is None else card.ceiling_nanousd(prompt_tokens, completion_tokens)

    def _now(self) -> float:
        """The time. Forgets prices that are too old for it."""
        now = self._clock()
        if now - self._read_at >= _REFRESH_S or len(self._cards) > _MOST_CARDS:
            self._cards.clear()
            self._dearest.clear()
            self._read_at = now
        return now

    def _find(self, provider: str, model: str, service_tier: str, now: float) -> RateCard | None:
        fixed = self._fixed(provider, model)
        if fixed is not None:
            return fixed
        info = _info(self._providers[provider], model)
        return None if info is None else _priced(info, service_tier, datetime.fromtimestamp(now, UTC))

    def _find_dearest(self, provider: str, model: str, now: float) -> RateCard | None:
        fixed = self._fixed(provider, model)
        if fixed is not None:
            return fixed
        info = _info(self._providers[provider], model)
        at = datetime.fromtimestamp(now, UTC)
        if info is None or _priced(info, "", at) is None:
            return None
        return _dearest(_possible(info, at))

    def _fixed(self, provider: str, model: str) -> RateCard | None:
        """The price that does not depend on the time or the service tier, if it has one."""
        named = self._overrides.get(provider, {})
        override = named.get(model) or named.get("*")
        if override is not None:
            return _from_override(override)
        return FREE if self._providers[provider].kind == "demo" else None


def _from_override(price: PriceOverride) -> RateCard:
    prompt, completion = _per_mtok(price.prompt), _per_mtok(price.completion)
    cached = prompt if price.cached is None else _per_mtok(price.cached)
    reasoning = completion if price.reasoning is None else _per_mtok(price.reasoning)
    per_request = -(-_per_mtok(price.request) // 1_000_000)  # dollars per million calls; up, so never to nothing
    return RateCard((Tier(0, prompt, completion, cached, reasoning),), per_request=per_request)


def _info(config: ProviderConfig, model: str) -> types.ModelInfo | None:
    try:
        if config.prices is not None:
            return get_snapshot().find_provider_model(model, None, config.prices, None)[1]
        return get_snapshot().find_provider_model(model, None, None, config.base_url)[1]
    except LookupError:
        return None


def _priced(info: types.ModelInfo, service_tier: str, at: datetime) -> RateCard | None:
    context = {"service_tier": service_tier} if service_tier not in ("", "default", "auto", "standard") else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a price key newer than this version of the package
        price = info.get_prices(at, context)
    return _card(price)


def _possible(info: types.ModelInfo, at: datetime) -> Iterator[types.ModelPrice]:
    """Every price that a call admitted at this time may be billed by, in whole or in part."""
    yield from {id(price): price for price in (info.get_prices(at + ahead) for ahead in _AHEAD)}.values()
    for variant in info.price_variants or ():
        if variant.constraint is None or any(variant.constraint.active(at + ahead) for ahead in _AHEAD):
            yield variant.prices


def _dearest(prices: Iterator[types.ModelPrice]) -> RateCard:
    """A card whose every rate is the highest that any of the prices names for any kind of token of its direction."""
    prompt = completion = per_request = 0
    for price in prices:
        for key, value in price.__dict__.items():
            rate = 0 if value is None else _per_mtok(_highest(value))
            if key == "requests_kcount":
                per_request = max(per_request, -(-rate // 1000))
            elif key.endswith("_mtok") and key.startswith("output_"):
                completion = max(completion, rate)
            elif key.endswith("_mtok"):
                prompt = max(prompt, rate)
    return RateCard((Tier(0, prompt, completion, prompt, completion),), per_request=per_request)


def _highest(price: Decimal | types.TieredPrices) -> Decimal:
    return price if isinstance(price, Decimal) else max([price.base, *(tier.price for tier in price.tiers)])


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

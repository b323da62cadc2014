"""Model facts: context window, longest answer, prices and capabilities of each alias, configured or found.

The configuration wins over the table of genai-prices, whose windows are rounded: nothing is refused by them that a
window a tenth longer would hold.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from app.config.gateway import GatewayConfig, TargetConfig
from app.domain.money import RateCard, TokenRates, format_usd
from app.gateway.pricing import Pricing
from app.gateway.routes import Target

NOTHING_KNOWN: dict[str, Any] = dict.fromkeys(("context_window", "max_output_tokens", "prices", "capabilities"))
_SHOWN_RATES = ("prompt", "completion", "cached", "cache_write", "cache_write_1h", "reasoning", "audio_prompt")
_TABLE_SLACK = 1.1


class ModelFacts:
    """Looks up what is known of the models that the configuration names. None stands for what is not known."""

    def __init__(self, *, config: GatewayConfig, pricing: Pricing) -> None:
        self._config = config
        self._pricing = pricing
        self._configured: dict[tuple[str, str], int] = {}  # windows by provider and model
        self._from_table: dict[tuple[str, str], int | None] = {}
        for alias, model in config.models.items():
            if model.context_window is not None:
                for key in self._own_targets(alias):
                    self._configured[key] = max(model.context_window, self._configured.get(key, 0))

    def context_window(self, alias: str) -> int | None:
        """Returns the window of the alias: the smallest of its targets', as far as they are known."""
        configured = self._config.models[alias].context_window
        if configured is not None:
            return configured
        return min(filter(None, map(self._window_in_table, self._own_targets(alias))), default=None)

    def longest_prompt(self, targets: Iterable[Target]) -> int | None:
        """Returns the tokens that no target takes more than; None if any of them may take prompts of any length."""
        longest = 0
        for target in targets:
            key = (target.provider.name, target.model)
            window = self._configured.get(key) or self._most_in_table(key)
            if window is None:
                return None
            longest = max(longest, window)
        return longest

    def describe(self, alias: str) -> dict[str, Any]:
        """Returns what `/models` shows; `prices` are US dollars per million tokens of the first target."""
        model = self._config.models[alias]
        card = self._pricing.rate_card(*self._own_targets(alias)[0])
        return {
            "context_window": self.context_window(alias),
            "max_output_tokens": model.max_output_tokens if model.kind == "chat" else None,
            "prices": None if card is None else _prices(card),
            "capabilities": None if model.capabilities is None else list(model.capabilities),
        }

    def _own_targets(self, alias: str) -> list[tuple[str, str]]:
        model = self._config.models[alias]
        fallbacks = [target for target in model.fallbacks if isinstance(target, TargetConfig)]
        return [(target.provider, target.model or alias) for target in (*model.targets, *fallbacks)]

    def _window_in_table(self, key: tuple[str, str]) -> int | None:
        if key not in self._from_table:
            self._from_table[key] = self._pricing.context_window(*key)
        return self._from_table[key]

    def _most_in_table(self, key: tuple[str, str]) -> int | None:
        window = self._window_in_table(key)
        if window is None:
            return None
        card = self._pricing.rate_card(*key)
        # A price for longer prompts than fit: the model takes them, for callers who ask for it.
        if card is not None and card.tiers[-1].above >= window:
            return None
        return int(window * _TABLE_SLACK)


def _prices(card: RateCard) -> dict[str, Any]:
    """Returns the rates that differ from those that they would follow, and those of longer prompts."""
    first, *longer = card.tiers
    prices: dict[str, Any] = _rates(first)
    if card.per_request:
        prices["request"] = format_usd(card.per_request)
    if card.search:
        prices["search"] = format_usd(card.search // 1_000_000)
    if longer:
        prices["longer_prompts"] = [{"above_tokens": tier.above, **_rates(tier)} for tier in longer]
    return prices


def _rates(tier: TokenRates) -> dict[str, str]:
    known = {"prompt", "completion", *tier.others}
    known |= {
        kind for kind, same in (("cached", "prompt"), ("reasoning", "completion")) if tier.rate(kind) != tier.rate(same)
    }
    return {kind: format_usd(tier.rate(kind)) for kind in _SHOWN_RATES if kind in known}

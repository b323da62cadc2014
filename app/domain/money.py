"""Rate cards and amounts of money, in whole nano-dollars: never a float, rounded once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property

from app.domain.usage import Details, Usage

NANO = 1_000_000_000
_MTOK = 1_000_000

# The kinds of tokens of a prompt. A kind without a rate has that of the first of its fallbacks with one.
PROMPT_KINDS: dict[str, tuple[str, ...]] = {
    "prompt": (),
    "cached": ("prompt",),
    "cache_write": ("prompt",),
    "cache_write_1h": ("cache_write", "prompt"),
    "audio_prompt": ("prompt",),
    "audio_cached": ("audio_prompt", "cached"),
    "image_prompt": ("prompt",),
    "image_cached": ("image_prompt", "cached"),
    "video_prompt": ("prompt",),
}
# Those of a completion, likewise.
COMPLETION_KINDS: dict[str, tuple[str, ...]] = {
    "completion": (),
    "reasoning": ("completion",),
    "citation": ("completion",),
    "audio_completion": ("completion",),
    "image_completion": ("completion",),
    "video_completion": ("completion",),
}
_FALLBACK_KINDS = PROMPT_KINDS | COMPLETION_KINDS


@dataclass(frozen=True, slots=True)
class TokenRates:
    """Rates, in nano-dollars per million tokens, for calls with more than `above` prompt tokens.

    `others` are the rates of rarer kinds, by their names in PROMPT_KINDS and COMPLETION_KINDS, where they have one.
    """

    above: int
    prompt: int
    completion: int
    cached: int
    reasoning: int
    others: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def from_kinds(cls, above: int, rates: Mapping[str, int]) -> TokenRates:
        """Returns the tier of the known rates, by kind."""
        common = {"prompt": 0, "completion": 0, **rates}
        common.setdefault("cached", common["prompt"])
        common.setdefault("reasoning", common["completion"])
        return cls(above, **{kind: common.pop(kind) for kind in _COMMON}, others=common)

    def rate(self, kind: str) -> int:
        """Returns the rate of a kind, or of the first of its fallbacks that has one."""
        for name in (kind, *_FALLBACK_KINDS[kind]):
            if name in _COMMON:
                return int(getattr(self, name))
            if name in self.others:
                return self.others[name]
        raise KeyError(kind)


_COMMON = ("prompt", "completion", "cached", "reasoning")


@dataclass(frozen=True)
class RateCard:  # without slots, for its cached property
    """The price of one upstream model: tiers by prompt length, shortest first; the first starts at 0.

    `version` names the price list. `region_percent` is what tokens cost in a region with rates of its own. Without
    `has_token_rates` the model is billed in other units alone, and a call that has none of them has no known price.
    """

    tiers: tuple[TokenRates, ...]
    per_request: int = 0  # nano-dollars a call, whatever its length
    search: int | None = None  # nano-dollars per million web searches; None: unknown
    audio_second: int = 0  # nano-dollars per million seconds of speech
    file_search: int | None = None  # nano-dollars per million searches of stored files; None: unknown
    region_percent: Mapping[str, int] = field(default_factory=dict)
    version: str = ""
    image: int = 0  # nano-dollars per million pictures made
    character: int = 0  # nano-dollars per million characters spoken
    has_token_rates: bool = True
    least_seconds: int = 0  # that any recording is billed for

    def cost_nanousd(self, usage: Usage) -> int:
        """Returns the cost of `usage`, rounded up to a whole nano-dollar (never rounds a real cost to nothing)."""
        tier = self.tiers[0]
        if len(self.tiers) > 1:
            tier = [each for each in self.tiers if each.above == 0 or usage.prompt_tokens > each.above][-1]
        if usage.details is not None or usage.inference_geo:
            return self._cost_of_every_kind(usage, usage.details or Details(), tier)
        cached = min(usage.cached_tokens, usage.prompt_tokens)
        reasoning = min(usage.reasoning_tokens, usage.completion_tokens)
        micro = (
            (usage.prompt_tokens - cached) * tier.prompt
            + cached * tier.cached
            + (usage.completion_tokens - reasoning) * tier.completion
            + reasoning * tier.reasoning
        )
        return self.per_request - (-micro // _MTOK)

    def can_price(self, usage: Usage) -> bool:
        """Returns whether the price of everything in `usage` is known."""
        if not (self.has_token_rates or self.units_nanousd(usage.details or Details())):
            return False
        if usage.details is None:
            return not usage.unpriced
        searches, file_searches = usage.details.searches, usage.details.file_searches
        known = (self.search is not None or not searches) and (self.file_search is not None or not file_searches)
        return known and not usage.unpriced

    def _cost_of_every_kind(self, usage: Usage, details: Details, tier: TokenRates) -> int:
        parts = usage.prompt_parts() | usage.completion_parts()
        micro = sum(tokens * tier.rate(kind) for kind, tokens in parts.items() if tokens)
        micro = -(-micro * self.region_percent.get(usage.inference_geo, 100) // 100)
        micro += max(details.searches, 0) * (self.search or 0) + max(details.file_searches, 0) * (self.file_search or 0)
        return self.per_request - (-micro // _MTOK) + self.units_nanousd(details)

    def units_nanousd(self, details: Details) -> int:
        """Returns the cost of what is billed by the second, the picture and the character."""
        seconds = max(details.audio_seconds, self.least_seconds) if details.audio_seconds > 0 else 0
        micro = seconds * self.audio_second
        micro += max(details.images, 0) * self.image + max(details.characters, 0) * self.character
        return -(-micro // _MTOK)

    def max_cost_nanousd(
        self, prompt_tokens: int, completion_tokens: int, searches: int = 0, file_searches: int = 0
    ) -> int:
        """Returns the most that a call with at most these can cost, whatever tier, region or kind of token applies."""
        prompt, completion = self._highest_rates
        micro = prompt_tokens * prompt + completion_tokens * completion
        micro = -(-micro * max(self.region_percent.values(), default=100) // 100)
        micro += searches * (self.search or 0) + file_searches * (self.file_search or 0)
        return self.per_request - (-micro // _MTOK)

    @cached_property
    def _highest_rates(self) -> tuple[int, int]:
        prompt = max(tier.rate(kind) for tier in self.tiers for kind in PROMPT_KINDS)
        return prompt, max(tier.rate(kind) for tier in self.tiers for kind in COMPLETION_KINDS)


FREE = RateCard((TokenRates(0, 0, 0, 0, 0),), search=0, file_search=0, version="free")


def format_usd(nanousd: int) -> str:
    """Returns nano-dollars as the decimal string shown outside: 1_500_000 → "0.0015"."""
    whole, fraction = divmod(abs(nanousd), NANO)
    digits = f"{whole}.{fraction:09d}".rstrip("0").rstrip(".")
    return f"-{digits}" if nanousd < 0 else digits


def parse_usd(dollars: str | int | Decimal) -> int:
    """Returns dollars as nano-dollars, exact to the nano: "0.0015" → 1_500_000."""
    return int((Decimal(str(dollars)) * NANO).to_integral_value())

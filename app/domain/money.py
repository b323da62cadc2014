"""Tokens and what they cost, in whole nano-dollars: never a float, never lost to rounding twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from typing import NamedTuple

NANO = 1_000_000_000
_MTOK = 1_000_000


# The service tiers that vendors bill at rates of their own. Any other name is the standard one.
SERVICE_TIERS = frozenset({"flex", "priority", "fast", "batch"})


class Details(NamedTuple):
    """The rarer kinds of what a call used, by the names of the ledger's columns. See `Usage`."""

    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    audio_prompt_tokens: int = 0
    audio_cached_tokens: int = 0
    audio_completion_tokens: int = 0
    image_prompt_tokens: int = 0
    image_cached_tokens: int = 0
    image_completion_tokens: int = 0
    video_prompt_tokens: int = 0
    video_completion_tokens: int = 0
    citation_tokens: int = 0
    searches: int = 0  # web searches
    audio_seconds: int = 0  # of speech in the prompt, where the vendor bills it by its length


class Usage(NamedTuple):
    """What one call used. Every kind of token is a part of `prompt_tokens` or of `completion_tokens`, as at OpenAI.

    Of the prompt: `cached` was read from the vendor's cache and `cache_write` written into it, two parts that never
    overlap; `cache_write_1h` is the part of `cache_write` that is kept for an hour. `audio_prompt`, `image_prompt` and
    `video_prompt` are not text; `audio_cached` is both audio and cached, `image_cached` likewise. Of the completion:
    `reasoning`, `citation`, and `audio_completion`, `image_completion` and `video_completion`, which do not overlap.
    Where parts add up to more than the whole, those named first in `prompt_parts` and `completion_parts` count.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    estimated: bool = False
    service_tier: str = ""  # as the vendor billed it, one of SERVICE_TIERS; "" is its standard rate
    details: Details | None = None  # most calls have none

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    @property
    def searches(self) -> int:
        return self.details.searches if self.details is not None else 0

    def recorded(self) -> dict[str, int | str]:
        """The service tier and the details as the ledger's columns; only those that there are."""
        found: dict[str, int | str] = {"service_tier": self.service_tier} if self.service_tier else {}
        if self.details is not None:
            found |= {name: value for name, value in self.details._asdict().items() if value}
        return found

    def prompt_parts(self) -> dict[str, int]:
        """The prompt's tokens by the kind they are priced as: disjoint, and together the whole prompt."""
        whole, of = _Whole(self.prompt_tokens), self.details or _NO_DETAILS
        cached = _Whole(whole.take(self.cached_tokens))
        audio_cached = cached.take(min(of.audio_cached_tokens, of.audio_prompt_tokens))
        image_cached = cached.take(min(of.image_cached_tokens, of.image_prompt_tokens))
        written = _Whole(whole.take(of.cache_write_tokens))
        return {
            "audio_cached": audio_cached,
            "image_cached": image_cached,
            "cached": cached.left,
            "cache_write_1h": written.take(of.cache_write_1h_tokens),
            "cache_write": written.left,
            "audio_prompt": whole.take(of.audio_prompt_tokens - audio_cached),
            "image_prompt": whole.take(of.image_prompt_tokens - image_cached),
            "video_prompt": whole.take(of.video_prompt_tokens),
            "prompt": whole.left,
        }

    def completion_parts(self) -> dict[str, int]:
        """The completion's tokens by the kind they are priced as: disjoint, and together the whole completion."""
        whole, of = _Whole(self.completion_tokens), self.details or _NO_DETAILS
        return {
            "reasoning": whole.take(self.reasoning_tokens),
            "citation": whole.take(of.citation_tokens),
            "audio_completion": whole.take(of.audio_completion_tokens),
            "image_completion": whole.take(of.image_completion_tokens),
            "video_completion": whole.take(of.video_completion_tokens),
            "completion": whole.left,
        }


_NO_DETAILS = Details()


class _Whole:
    """A number of tokens of which parts are taken, never more than are left."""

    def __init__(self, tokens: int) -> None:
        self.left = max(tokens, 0)

    def take(self, tokens: int) -> int:
        part = min(max(tokens, 0), self.left)
        self.left -= part
        return part


# What a kind of token costs where it has no rate of its own: the first of these that has one.
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
COMPLETION_KINDS: dict[str, tuple[str, ...]] = {
    "completion": (),
    "reasoning": ("completion",),
    "citation": ("completion",),
    "audio_completion": ("completion",),
    "image_completion": ("completion",),
    "video_completion": ("completion",),
}
_PRICED_AS = PROMPT_KINDS | COMPLETION_KINDS


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
        """A tier from the rates that are known, by kind."""
        common = {"prompt": 0, "completion": 0, **rates}
        common.setdefault("cached", common["prompt"])
        common.setdefault("reasoning", common["completion"])
        return cls(above, **{kind: common.pop(kind) for kind in _COMMON}, others=common)

    def rate(self, kind: str) -> int:
        for name in (kind, *_PRICED_AS[kind]):
            if name in _COMMON:
                return int(getattr(self, name))
            if name in self.others:
                return self.others[name]
        raise KeyError(kind)


_COMMON = ("prompt", "completion", "cached", "reasoning")


@dataclass(frozen=True)
class RateCard:
    """The price of one upstream model: tiers by prompt length, shortest first; the first starts at 0."""

    tiers: tuple[TokenRates, ...]
    per_request: int = 0  # nano-dollars a call, whatever its length
    search: int | None = None  # nano-dollars per million web searches; None: nobody knows
    audio_second: int = 0  # nano-dollars per million seconds of speech

    def cost_nanousd(self, usage: Usage) -> int:
        """Cost of `usage`, rounded up to a whole nano-dollar (never rounds a real cost to nothing)."""
        tier = self.tiers[0]
        if len(self.tiers) > 1:
            tier = [each for each in self.tiers if each.above == 0 or usage.prompt_tokens > each.above][-1]
        if usage.details is not None:
            return self._cost_of_every_kind(usage, usage.details, tier)
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
        """Whether the price of everything in `usage` is known."""
        return self.search is not None or not usage.searches

    def _cost_of_every_kind(self, usage: Usage, details: Details, tier: TokenRates) -> int:
        parts = usage.prompt_parts() | usage.completion_parts()
        micro = sum(tokens * tier.rate(kind) for kind, tokens in parts.items() if tokens)
        micro += max(details.searches, 0) * (self.search or 0) + max(details.audio_seconds, 0) * self.audio_second
        return self.per_request - (-micro // _MTOK)

    def max_cost_nanousd(self, prompt_tokens: int, completion_tokens: int, searches: int = 0) -> int:
        """The most that a call with at most these can cost, whatever tier or kind of token applies."""
        prompt, completion = self._dearest
        micro = prompt_tokens * prompt + completion_tokens * completion + searches * (self.search or 0)
        return self.per_request - (-micro // _MTOK)

    @cached_property
    def _dearest(self) -> tuple[int, int]:
        prompt = max(tier.rate(kind) for tier in self.tiers for kind in PROMPT_KINDS)
        return prompt, max(tier.rate(kind) for tier in self.tiers for kind in COMPLETION_KINDS)


FREE = RateCard((TokenRates(0, 0, 0, 0, 0),), search=0)


def format_usd(nanousd: int) -> str:
    """Nano-dollars as the decimal string shown outside: 1_500_000 → "0.0015"."""
    whole, fraction = divmod(abs(nanousd), NANO)
    digits = f"{whole}.{fraction:09d}".rstrip("0").rstrip(".")
    return f"-{digits}" if nanousd < 0 else digits


def parse_usd(dollars: str | int | Decimal) -> int:
    """Dollars as nano-dollars, exact to the nano: "0.0015" → 1_500_000."""
    return int((Decimal(str(dollars)) * NANO).to_integral_value())

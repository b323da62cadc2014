"""Tokens and what they cost, in whole nano-dollars: never a float, never lost to rounding twice."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import NamedTuple

NANO = 1_000_000_000
_MTOK = 1_000_000


class Usage(NamedTuple):
    """Tokens of one call. `cached` is a part of `prompt`, `reasoning` a part of `completion` (OpenAI's meaning)."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    estimated: bool = False
    service_tier: str = ""  # as the provider named it: "flex", "priority", "batch"; "" is its standard rate

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Tier:
    """Rates, in nano-dollars per million tokens, for calls with more than `above` prompt tokens."""

    above: int
    prompt: int
    completion: int
    cached: int
    reasoning: int


@dataclass(frozen=True)
class RateCard:
    """The price of one upstream model: tiers by prompt length, shortest first; the first starts at 0."""

    tiers: tuple[Tier, ...]
    per_request: int = 0  # nano-dollars a call, whatever its length

    def cost_nanousd(self, usage: Usage) -> int:
        """Cost of `usage`, rounded up to a whole nano-dollar (never rounds a real cost to nothing)."""
        tier = self.tiers[0]
        if len(self.tiers) > 1:
            tier = [each for each in self.tiers if each.above == 0 or usage.prompt_tokens > each.above][-1]
        cached = min(usage.cached_tokens, usage.prompt_tokens)
        reasoning = min(usage.reasoning_tokens, usage.completion_tokens)
        micro = (
            (usage.prompt_tokens - cached) * tier.prompt
            + cached * tier.cached
            + (usage.completion_tokens - reasoning) * tier.completion
            + reasoning * tier.reasoning
        )
        return self.per_request - (-micro // _MTOK)

    def ceiling_nanousd(self, prompt_tokens: int, completion_tokens: int) -> int:
        """The most that a call with at most these tokens can cost, whatever tier or kind of token applies."""
        prompt, completion = self._dearest
        return self.per_request - (-(prompt_tokens * prompt + completion_tokens * completion) // _MTOK)

    @cached_property
    def _dearest(self) -> tuple[int, int]:
        prompt = max(max(t.prompt, t.cached) for t in self.tiers)
        return prompt, max(max(t.completion, t.reasoning) for t in self.tiers)


FREE = RateCard((Tier(0, 0, 0, 0, 0),))


def usd(nanousd: int) -> str:
    """Nano-dollars as the decimal string shown outside: 1_500_000 → "0.0015"."""
    whole, fraction = divmod(abs(nanousd), NANO)
    digits = f"{whole}.{fraction:09d}".rstrip("0").rstrip(".")
    return f"-{digits}" if nanousd < 0 else digits


def nanousd(dollars: str | int | Decimal) -> int:
    """Dollars as nano-dollars, exact to the nano: "0.0015" → 1_500_000."""
    return int((Decimal(str(dollars)) * NANO).to_integral_value())

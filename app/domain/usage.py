"""Usage of one call: its tokens and other billed units, by kind."""

from __future__ import annotations

from typing import NamedTuple

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

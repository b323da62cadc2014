"""Usage of one call: its tokens and other billed units by kind, and its row in the ledger."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

import msgspec

from app.domain.charges import ChargedAttempt

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
    file_searches: int = 0  # of files that the vendor stores
    audio_seconds: int = 0  # of speech in the prompt, where the vendor bills it by its length
    images: int = 0  # made, where the vendor bills them by the piece
    characters: int = 0  # of a text that was spoken


class Usage(NamedTuple):
    """The usage of one call. Every kind of token is a part of `prompt_tokens` or of `completion_tokens`, as at OpenAI.

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
    inference_geo: str = ""  # the region that the vendor charges extra for, as it names it
    unpriced: bool = False  # the vendor bills something besides, of which nobody knows the price
    reported_cost_nanousd: int | None = None  # what the vendor itself says that the call costs

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    @property
    def searches(self) -> int:
        return self.details.searches if self.details is not None else 0

    def recorded(self) -> dict[str, int | str]:
        """Returns what is rare as the ledger's columns: tier, region, reported cost, details; only those there are."""
        found: dict[str, int | str] = {"service_tier": self.service_tier} if self.service_tier else {}
        if self.inference_geo:
            found["inference_geo"] = self.inference_geo
        if self.reported_cost_nanousd is not None:
            found["reported_cost_nanousd"] = self.reported_cost_nanousd
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


# A bound on each number keeps the sums inside 64 bits; a call beyond it is not a call.
_Tokens = Annotated[int, msgspec.Meta(ge=0, le=10**12)]
_Money = Annotated[int, msgspec.Meta(ge=0, le=10**15)]
_Small = Annotated[int, msgspec.Meta(ge=0, le=10**6)]
_Milliseconds = Annotated[float, msgspec.Meta(ge=0, le=10**12)]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]  # short enough for any index
_YEAR_9999 = 253_402_300_799

Status = Literal["ok", "error", "aborted", "lost"]


class UsageRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One call as a row of the ledger, from its reservation over the outbox to the database.

    `ts` is when it began, in Unix seconds. `call_id` is ours and unique; `request_id` may be the client's own, and
    stands in where there is no call id. In JSON the fields from `charged_attempts` on are left out when they are empty;
    msgspec writes the others always, since their default comes from a factory.
    """

    request_id: _Name
    call_id: Annotated[str, msgspec.Meta(max_length=256)] = msgspec.field(default_factory=str)
    ts: Annotated[float, msgspec.Meta(ge=0, le=_YEAR_9999)]
    key_id: _Name
    user: str = msgspec.field(default_factory=str)
    tenant: str = msgspec.field(default_factory=str)
    model: _Name
    provider: Annotated[str, msgspec.Meta(max_length=256)] = msgspec.field(default_factory=str)
    upstream_model: str = msgspec.field(default_factory=str)
    endpoint: str = msgspec.field(default_factory=lambda: "chat.completions")
    status: Status
    http_status: _Small = msgspec.field(default_factory=int)
    prompt_tokens: _Tokens = msgspec.field(default_factory=int)
    completion_tokens: _Tokens = msgspec.field(default_factory=int)
    cached_tokens: _Tokens = msgspec.field(default_factory=int)
    reasoning_tokens: _Tokens = msgspec.field(default_factory=int)
    cost_nanousd: _Money = msgspec.field(default_factory=int)
    latency_ms: _Milliseconds = msgspec.field(default_factory=float)
    ttft_ms: _Milliseconds | None = msgspec.field(default_factory=lambda: None)
    attempts: _Small = msgspec.field(default_factory=int)
    cache: str = msgspec.field(default_factory=lambda: "bypass")
    streamed: bool = msgspec.field(default_factory=bool)
    estimated: bool = msgspec.field(default_factory=bool)
    unpriced: bool = msgspec.field(default_factory=bool)
    job_id: str | None = msgspec.field(default_factory=lambda: None)
    tags: str = msgspec.field(default_factory=str)
    charged_attempts: list[ChargedAttempt] = msgspec.field(default_factory=list)  # rows of `usage_attempts`
    service_tier: Annotated[str, msgspec.Meta(max_length=64)] = ""
    cache_write_tokens: _Tokens = 0
    cache_write_1h_tokens: _Tokens = 0
    audio_prompt_tokens: _Tokens = 0
    audio_cached_tokens: _Tokens = 0
    audio_completion_tokens: _Tokens = 0
    image_prompt_tokens: _Tokens = 0
    image_cached_tokens: _Tokens = 0
    image_completion_tokens: _Tokens = 0
    video_prompt_tokens: _Tokens = 0
    video_completion_tokens: _Tokens = 0
    citation_tokens: _Tokens = 0
    searches: _Tokens = 0
    audio_seconds: _Tokens = 0
    file_searches: _Tokens = 0
    images: _Tokens = 0
    characters: _Tokens = 0
    inference_geo: Annotated[str, msgspec.Meta(max_length=64)] = ""
    price_version: Annotated[str, msgspec.Meta(max_length=64)] = ""  # of the prices that it was computed from
    reported_cost_nanousd: _Money | None = None  # by the vendor
    computed_cost_nanousd: _Money | None = None  # by our prices, where the vendor reported another one
    session: Annotated[str, msgspec.Meta(max_length=256)] = ""
    agent: Annotated[str, msgspec.Meta(max_length=256)] = ""

    def __post_init__(self) -> None:
        if not self.call_id:
            msgspec.structs.force_setattr(self, "call_id", self.request_id)

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

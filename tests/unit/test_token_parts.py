"""Each kind of token is priced once, as its own kind, and never more of them than the call had."""

from __future__ import annotations

import pytest

from app.domain.money import COMPLETION_KINDS, PROMPT_KINDS, RateCard, TokenRates
from app.domain.usage import Details, Usage

OF_PROMPT = Details(
    cache_write_tokens=500,
    cache_write_1h_tokens=200,
    audio_prompt_tokens=1000,
    audio_cached_tokens=10,
    image_prompt_tokens=2000,
    image_cached_tokens=20,
    video_prompt_tokens=3000,
)
OF_COMPLETION = Details(
    audio_completion_tokens=20, image_completion_tokens=300, video_completion_tokens=4000, citation_tokens=50_000
)

# A dollar figure of its own for each kind: nano-dollars a token.
RATES = {kind: number for number, kind in enumerate(PROMPT_KINDS | COMPLETION_KINDS, start=1)}
EVERYTHING = Usage(
    100_000,
    100_000,
    100,
    1,
    details=OF_PROMPT._replace(**{name: value for name, value in OF_COMPLETION._asdict().items() if value}),
)


def test_a_prompts_parts_do_not_overlap_and_make_up_the_whole() -> None:
    parts = Usage(prompt_tokens=100_000, cached_tokens=100, details=OF_PROMPT).prompt_parts()
    assert parts == {
        "audio_cached": 10,
        "image_cached": 20,
        "cached": 70,
        "cache_write_1h": 200,
        "cache_write": 300,
        "audio_prompt": 990,
        "image_prompt": 1980,
        "video_prompt": 3000,
        "prompt": 93_430,
    }
    assert (sum(parts.values()), set(parts)) == (100_000, set(PROMPT_KINDS))


def test_a_completions_parts_do_not_overlap_and_make_up_the_whole() -> None:
    parts = Usage(completion_tokens=100_000, reasoning_tokens=1, details=OF_COMPLETION).completion_parts()
    assert parts == {
        "reasoning": 1,
        "citation": 50_000,
        "audio_completion": 20,
        "image_completion": 300,
        "video_completion": 4000,
        "completion": 45_679,
    }
    assert (sum(parts.values()), set(parts)) == (100_000, set(COMPLETION_KINDS))


@pytest.mark.parametrize("tokens", [0, 5, 130, 1500, 50_001])
def test_parts_that_add_up_to_more_than_the_whole_are_cut_to_it(tokens: int) -> None:
    usage = EVERYTHING._replace(prompt_tokens=tokens, completion_tokens=tokens)
    for parts in (usage.prompt_parts(), usage.completion_parts()):
        assert sum(parts.values()) == tokens
        assert min(parts.values()) >= 0


def rate_card(rates: dict[str, int]) -> RateCard:
    return RateCard((TokenRates.from_kinds(0, {kind: rate * 1_000_000 for kind, rate in rates.items()}),))


def test_every_kind_is_priced_at_its_own_rate() -> None:
    parts = EVERYTHING.prompt_parts() | EVERYTHING.completion_parts()
    assert min(parts.values()) > 0
    assert rate_card(RATES).cost_nanousd(EVERYTHING) == sum(count * RATES[kind] for kind, count in parts.items())


@pytest.mark.parametrize(
    ("kind", "instead"),
    [
        ("cached", "prompt"),
        ("cache_write", "prompt"),
        ("cache_write_1h", "cache_write"),
        ("audio_prompt", "prompt"),
        ("audio_cached", "audio_prompt"),
        ("image_prompt", "prompt"),
        ("image_cached", "image_prompt"),
        ("video_prompt", "prompt"),
        ("reasoning", "completion"),
        ("citation", "completion"),
        ("audio_completion", "completion"),
        ("image_completion", "completion"),
        ("video_completion", "completion"),
    ],
)
def test_a_kind_without_a_rate_is_priced_as_the_one_it_is_a_part_of(kind: str, instead: str) -> None:
    parts = EVERYTHING.prompt_parts() | EVERYTHING.completion_parts()
    without = rate_card({other: rate for other, rate in RATES.items() if other != kind})
    difference = rate_card(RATES).cost_nanousd(EVERYTHING) - without.cost_nanousd(EVERYTHING)
    assert difference == parts[kind] * (RATES[kind] - RATES[instead])

"""The schema of `config/prices.yaml`: prices of an operator's own, which win over those of genai-prices."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any

from pydantic import Field

from app.config.section import Name, Section

_Dollars = Annotated[Decimal, Field(ge=0, le=1_000_000)]


def _same_as(kind: str) -> Any:
    return Field(None, description=f"By default as {kind}.")


class PriceOverride(Section):
    """US dollars per million tokens; `request`, `search` and `file_search` are US dollars per million of those."""

    prompt: _Dollars
    completion: _Dollars = Decimal(0)
    cached: _Dollars | None = _same_as("prompt")
    cache_write: _Dollars | None = _same_as("prompt")
    cache_write_1h: _Dollars | None = _same_as("cache_write")
    reasoning: _Dollars | None = _same_as("completion")
    citation: _Dollars | None = _same_as("completion")
    audio_prompt: _Dollars | None = _same_as("prompt")
    audio_cached: _Dollars | None = _same_as("audio_prompt, then cached")
    audio_completion: _Dollars | None = _same_as("completion")
    image_prompt: _Dollars | None = _same_as("prompt")
    image_cached: _Dollars | None = _same_as("image_prompt, then cached")
    image_completion: _Dollars | None = _same_as("completion")
    video_prompt: _Dollars | None = _same_as("prompt")
    video_completion: _Dollars | None = _same_as("completion")
    request: Annotated[Decimal, Field(ge=0, le=1_000_000_000)] = Decimal(0)
    search: Annotated[Decimal, Field(ge=0, le=1_000_000_000)] | None = Field(
        None, description="By default unknown: a call that searches is flagged, and refused under a budget."
    )
    file_search: Annotated[Decimal, Field(ge=0, le=1_000_000_000)] | None = Field(
        None, description="Of files that the vendor stores; unknown by default, as `search`."
    )


class PriceFile(Section):
    """`config/prices.yaml`: provider → upstream model (or "*") → price."""

    prices: dict[Name, dict[str, PriceOverride]] = Field(default_factory=dict)

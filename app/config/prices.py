"""The schema of `config/prices.yaml`: prices of an operator's own, which win over those of genai-prices."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any

from pydantic import Field, model_validator

from app.config.section import Name, Section

_Dollars = Annotated[Decimal, Field(ge=0, le=1_000_000)]
_Fee = Annotated[Decimal, Field(ge=0, le=1_000_000_000)]
_UNITS = ("request", "image", "audio_second", "character")  # by which a model may be billed alone


def _same_as(kind: str) -> Any:
    return Field(None, description=f"By default as {kind}.")


class PriceOverride(Section):
    """US dollars per million tokens, and for the fields from `request` on per million of those."""

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
    request: _Fee = Decimal(0)
    image: _Fee = Field(Decimal(0), description="A picture made.")
    audio_second: _Fee = Field(Decimal(0), description="A second of the recording.")
    character: _Fee = Field(Decimal(0), description="A character spoken.")
    search: _Fee | None = Field(
        None, description="By default unknown: a call that searches is flagged, and refused under a budget."
    )
    file_search: _Fee | None = Field(
        None, description="Of files that the vendor stores; unknown by default, as `search`."
    )

    @model_validator(mode="before")
    @classmethod
    def _without_token_price(cls, data: Any) -> Any:
        if isinstance(data, dict) and any(name in data for name in _UNITS):
            data = {"prompt": 0, **data}
        return data


class PriceFile(Section):
    """`config/prices.yaml`: provider → upstream model (or "*") → price."""

    prices: dict[Name, dict[str, PriceOverride]] = Field(default_factory=dict)

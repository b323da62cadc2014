"""Requests through every pair of dialects: each feature means the same to the vendor, or is refused by its name."""

from __future__ import annotations

from typing import Any

import pytest

from app.domain.content import Prompt
from app.errors import Untranslatable
from app.providers.dialects import DIALECTS
from tests.support.dialects.calls import NAMES, decode, encode, judge, target
from tests.support.dialects.meaning import turns
from tests.support.dialects.prompts import FEATURES, PNG, settings_of

# What is refused, whoever asks, and the names in the model's `drop` that let it fall.
REFUSED: dict[tuple[str, str], frozenset[str]] = {
    ("image by URL", "gemini"): frozenset({"messages.content.image"}),
    ("document by URL", "chat"): frozenset({"messages.document"}),
    ("document by URL", "gemini"): frozenset({"messages.content.document"}),
    ("audio", "messages"): frozenset({"messages.content.input_audio"}),
    ("JSON of any kind", "messages"): frozenset({"response_format"}),
    ("stop sequences", "responses"): frozenset({"stop"}),
    ("seed", "messages"): frozenset({"seed"}),
    ("seed", "responses"): frozenset({"seed"}),
    ("penalties", "messages"): frozenset({"presence_penalty", "frequency_penalty"}),
    ("penalties", "responses"): frozenset({"presence_penalty", "frequency_penalty"}),
    ("log probabilities", "messages"): frozenset({"top_logprobs"}),
    **{("several choices", vendor): frozenset({"n", "generationConfig.candidateCount"}) for vendor in NAMES},
    **{("bias", vendor): frozenset({"logit_bias"}) for vendor in NAMES},
    **{("web search", vendor): frozenset({"web_search_options", "tools"}) for vendor in NAMES},
    **{("answer begun", vendor): frozenset({"messages"}) for vendor in NAMES},
}
PAIRS = [
    pytest.param(name, caller, vendor, id=f"{name}, {caller} to {vendor}")
    for name, feature in FEATURES.items()
    for caller in feature.written
    for vendor in NAMES
    if caller != vendor
]


@pytest.mark.parametrize(("name", "caller"), [(name, caller) for name in FEATURES for caller in FEATURES[name].written])
def test_a_request_is_understood(name: str, caller: str) -> None:
    feature = FEATURES[name]
    asked = decode(caller, feature.written[caller])
    assert turns(asked) == feature.turns
    assert settings_of(asked, feature.settings) == feature.settings


@pytest.mark.parametrize(("name", "caller", "vendor"), PAIRS)
def test_a_request_means_the_same_to_the_vendor(name: str, caller: str, vendor: str) -> None:
    feature = FEATURES[name]
    asked = decode(caller, feature.written[caller])
    if (name, vendor) in REFUSED:
        _refused(asked, vendor, REFUSED[name, vendor])
        return
    body = encode(vendor, asked)
    judge(vendor, body)
    heard = decode(vendor, body)
    assert turns(heard) == _expected(name, vendor)
    assert settings_of(heard, feature.settings) == feature.settings
    assert heard.foreign == {}
    assert [tool.name for tool in heard.tools] == [tool.name for tool in asked.tools]
    assert (heard.format and heard.format.schema) == (asked.format and asked.format.schema)
    if asked.tool_choice is not None:
        assert heard.tool_choice == asked.tool_choice
        assert not heard.parallel_tool_calls or asked.parallel_tool_calls is not False


def _refused(asked: Prompt, vendor: str, drop: frozenset[str]) -> None:
    with pytest.raises(Untranslatable) as refused:
        encode(vendor, asked)
    assert refused.value.param
    outgoing = target(vendor, drop=drop)
    judge(vendor, DIALECTS[vendor].encode_request(asked, outgoing))
    assert refused.value.param in outgoing.dropped


def _expected(name: str, vendor: str) -> list[Any] | None:
    """Returns the turns that the vendor is to hear."""
    if name == "image in a tool result" and vendor == "chat":
        # Pictures have no place in its results.
        return [*(FEATURES[name].turns or [])[:2], ("user", [("result", 0, (("text", "fog"),)), ("image", PNG)])]
    return FEATURES[name].turns

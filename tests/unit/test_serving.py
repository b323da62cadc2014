"""Availability of models: the effect of a missing vendor key on models, fallbacks and the default."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app.config import serving
from app.config.files import load_config
from app.config.gateway import GatewayConfig
from app.config.providers import ProviderConfig
from app.domain.usage import SERVICE_TIERS, Details
from app.errors import ConfigError
from app.gateway.pricing import Pricing
from app.settings import load_settings

UP = {"kind": "openai", "base_url": "http://127.0.0.1/v1"}


def config(**models: Any) -> GatewayConfig:
    """Models on `up` and `other`, which lack their keys, and on `local` and `demo`, which need none."""
    return GatewayConfig.model_validate(
        {
            "providers": {
                "up": {**UP, "api_key": None, "key_variable": "UP_KEY"},
                "other": {**UP, "api_key": " "},
                "local": UP,
                "demo": {"kind": "demo", "api_key": ""},
            },
            "models": {
                name: model if isinstance(model, dict) else {"targets": model} for name, model in models.items()
            },
        }
    )


@pytest.mark.parametrize(
    ("fields", "lacks"),
    [
        ({}, False),  # a server of one's own
        ({"api_key": "sk-1"}, False),
        ({"api_key": None}, True),
        ({"api_key": ""}, True),
        ({"api_key": " \n"}, True),
        ({"api_key": "", "headers": {"API-Key": "1"}}, False),
        ({"api_key": "", "headers": {"X-Team": "1"}}, True),
        ({"api_key": "", "kind": "demo"}, False),
    ],
)
def test_a_key_that_is_given_but_empty_is_missing(fields: dict[str, Any], lacks: bool) -> None:
    assert ProviderConfig.model_validate({**UP, **fields}).has_no_key is lacks


def test_a_key_is_what_is_left_without_the_space_around_it() -> None:
    assert ProviderConfig.model_validate({**UP, "api_key": "sk-1\n"}).api_key == "sk-1"


@pytest.mark.parametrize(
    ("model", "served"),
    [
        (["up"], False),
        (["up", "other"], False),
        (["up", "local"], True),
        (["demo"], True),
        ({"targets": ["up"], "fallbacks": ["other"]}, False),
        ({"targets": ["up"], "fallbacks": ["demo"]}, True),
        ({"targets": ["up"], "fallbacks": ["lent"]}, True),
        ({"targets": ["up"], "fallbacks": [{"provider": "local", "model": "x"}]}, True),
    ],
)
def test_a_model_can_be_served_by_whoever_needs_no_key_or_has_one(model: Any, served: bool) -> None:
    found = config(m=model, lent=["demo"])
    assert serving.can_serve(found, "m") is served
    assert serving.unavailable_reason(found, "m") == ("" if served else "up has no API key: set UP_KEY")


def test_without_a_variable_the_field_is_named() -> None:
    assert serving.unavailable_reason(config(m=["other"]), "m") == "other has no API key: set providers.other.api_key"


def test_the_default_is_the_first_chat_model_that_can_be_served() -> None:
    embedding = {"kind": "embedding", "targets": ["demo"]}
    assert serving.default_model(config(a=["up"], e=embedding, b=["local"], c=["demo"])) == "b"
    assert serving.default_model(config(a=["up"], b=["other"])) == "a"
    assert serving.default_model(config(e=embedding)) == "e"
    assert serving.chat_models(config(a=["up"], b=["demo"], c=["demo"]), "c") == ("c", "b", "a")
    assert serving.chat_models(config(a=["up"], b=["demo"]), "a") == ("b", "a")
    assert serving.chat_models(config(a=["up"], b=["demo"]), "auto") == ("auto", "b", "a")


def test_what_is_missing_is_told_with_the_models_that_it_concerns() -> None:
    many = {f"m{number}": ["up"] for number in range(7)}
    found = config(**many, kept={"targets": ["up"], "fallbacks": ["demo"]}, d=["demo"])
    assert serving.missing_keys(found) == [
        ("up", "UP_KEY", "m0, m1, m2, m3, m4 and 2 more"),
        ("other", "providers.other.api_key", "none"),
    ]


KEYED = """
providers: {up: {kind: openai, base_url: "http://127.0.0.1/v1", api_key: "%s"}, demo: {kind: demo}}
models: {m: {targets: [up]}, d: {targets: [demo]}}
"""


@pytest.mark.parametrize(
    ("written", "env", "default", "reason"),
    [
        ("${SOME_KEY:-}", {}, "d", "up has no API key: set SOME_KEY"),
        ("${SOME_KEY:-}", {"SOME_KEY": " \t"}, "d", "up has no API key: set SOME_KEY"),
        ("${SOME_KEY:-}", {"SOME_KEY": "sk-1"}, "m", ""),
        ("${SOME_KEY:-sk-2}", {}, "m", ""),
        ("", {}, "d", "up has no API key: set providers.up.api_key"),
        ("sk-1", {}, "m", ""),
    ],
)
def test_the_variable_is_known_that_a_key_was_to_come_from(
    tmp_path: Path, written: str, env: dict[str, str], default: str, reason: str
) -> None:
    (tmp_path / "gateway.yaml").write_text(KEYED % written)
    found, _ = load_config(tmp_path / "gateway.yaml", env)
    assert (serving.default_model(found), serving.unavailable_reason(found, "m")) == (default, reason)


def test_a_key_that_must_be_set_must_not_be_blank(tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text(KEYED % "${SOME_KEY}")
    with pytest.raises(ConfigError, match=r"providers\.up\.api_key: SOME_KEY is not set"):
        load_config(tmp_path / "gateway.yaml", {"SOME_KEY": "  "})


@pytest.mark.parametrize("name", ["x", "e"])
def test_a_default_model_that_is_not_there_or_makes_embeddings_is_one_line(tmp_path: Path, name: str) -> None:
    models = "targets: [demo]}, e: {kind: embedding, targets: [demo]}}\n"
    text = (KEYED % "sk-1").replace("targets: [demo]}}\n", models) + f"default_model: {name}\n"
    (tmp_path / "gateway.yaml").write_text(text)
    with pytest.raises(ConfigError, match=rf"default_model: no chat model '{name}'; expected one of: auto, d, m$"):
        load_config(tmp_path / "gateway.yaml", {})


TYPED = (
    "gpt-4o",
    "gpt-4o-mini",
    "gpt-4.1",
    "gpt-4.1-mini",
    "gpt-4.1-nano",
    "gpt-5",
    "gpt-5-mini",
    "gpt-5-nano",
    "gpt-5.1",
    "gpt-5.2",
    "gpt-5.4",
    "gpt-5.4-mini",
    "gpt-5.4-nano",
    "gpt-5.5",
    "gpt-3.5-turbo",
    "gpt-4",
    "gpt-4-turbo",
    "o1",
    "o3",
    "o3-mini",
    "o4-mini",
    "text-embedding-3-small",
    "text-embedding-3-large",
    "text-embedding-ada-002",
    "claude-opus-5-5",
    "claude-sonnet-5-5",
    "claude-haiku-5-5",
    "claude-fable-5-2",
    "claude-opus-4-8",
    "claude-sonnet-4-6",
    "claude-haiku-4-5",
    "gemini-3.8-flash",
    "gemini-3.5-flash-lite",
    "gemini-3.1-pro-preview",
    "gemini-2.5-pro",
    "gemini-2.5-flash",
    "gemini-embedding-001",
    "omni-moderation-latest",
    "gpt-4o-transcribe",
    "gpt-4o-mini-transcribe",
    "whisper-1",
    "gpt-4o-mini-tts",
    "tts-1",
    "gpt-image-2",
    "gpt-image-1-mini",
    "demo",
)


def test_shipped_models_are_those_people_type_priced_and_described() -> None:
    shipped = load_settings({})
    assert set(shipped.config.models) == set(TYPED)
    pricing = Pricing(config=shipped.config, overrides=shipped.prices)
    for alias, model in shipped.config.models.items():
        assert (model.name, model.description) != (None, None), alias
        for tier in ("", *SERVICE_TIERS):
            card = pricing.rate_card(model.targets[0].provider, alias, tier)
            assert card is not None, alias
        units = Details(audio_seconds=10, characters=10) if model.kind == "audio" else None
        most = pricing.max_cost_nanousd(model.targets[0].provider, alias, 1000, 1000, units=units)
        assert (most == 0) if alias in ("demo", "omni-moderation-latest") else most, alias


@pytest.mark.parametrize(
    ("env", "default"),
    [
        ({}, "demo"),
        ({"OPENAI_API_KEY": "sk-test"}, "gpt-4.1-mini"),
        ({"ANTHROPIC_API_KEY": "sk-test"}, "claude-opus-5-5"),
        ({"GEMINI_API_KEY": "sk-test"}, "gemini-3.8-flash"),
    ],
)
def test_the_shipped_default_is_the_vendors_where_its_key_is_set(env: dict[str, str], default: str) -> None:
    assert serving.default_model(load_settings(env).config) == default


def test_shipped_rules_send_premium_code_and_long_to_the_strong_model() -> None:
    shipped = load_settings({"OPENAI_API_KEY": "sk-test"})
    strong, cheap = {rule.model for rule in shipped.config.smart.rules}, shipped.config.smart.default
    assert cheap is not None
    pricing = Pricing(config=shipped.config, overrides=shipped.prices)

    def price(model: str) -> int:
        return pricing.max_cost_nanousd("openai", model, 1000, 1000) or 0

    assert all(price(model) > price(cheap) > 0 for model in strong)
    assert shipped.config.plans["premium"].has_budget

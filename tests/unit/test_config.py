"""The schema of gateway.yaml: the default of each number, and the smallest and largest value it may have.

A default that changes silently changes what installed gateways do; a bound is what keeps a slip of the pen from it.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from pydantic import ValidationError

from app.config.features import BatchConfig, OptimizerConfig, QueueConfig, SmartConfig, SmartRule, SupportConfig
from app.config.gateway import (
    CacheConfig,
    GatewayConfig,
    ModelConfig,
    Plan,
    ReserveConfig,
    RetryConfig,
    TargetConfig,
)
from app.config.prices import PriceOverride
from app.config.providers import DemoScript, ProviderConfig, Timeouts
from app.config.section import Section
from app.config.server import ServerConfig

COUNT = (1, 10**12)
SECONDS = (1e-9, 86_400)
NUMBERS: list[tuple[type[Section], str, Any, tuple[Any, Any]]] = [
    (Timeouts, "connect_s", 5, SECONDS),
    (Timeouts, "first_byte_s", 120, SECONDS),
    (Timeouts, "idle_s", 60, SECONDS),
    (Timeouts, "total_s", 600, SECONDS),
    (DemoScript, "delay_s", 0, (0, 600)),
    (DemoScript, "chunk_delay_s", 0.02, (0, 60)),
    (DemoScript, "prompt_tokens", None, (0, None)),
    (DemoScript, "completion_tokens", None, (0, None)),
    (DemoScript, "fail_status", None, (400, 599)),
    (DemoScript, "fail_times", None, (1, None)),
    (DemoScript, "cut_after_chunks", None, (0, None)),
    (ProviderConfig, "max_connections", 1000, (1, 100_000)),
    (ProviderConfig, "max_idle_connections", 100, (0, 10_000)),
    (TargetConfig, "weight", 1, (0, 1_000_000)),
    (ModelConfig, "max_output_tokens", 16_384, COUNT),
    *(
        (Plan, f"{unit}_per_{period}", None, COUNT)
        for unit in ("requests", "tokens")
        for period in ("minute", "day", "month")
    ),
    (Plan, "budget_usd_per_day", None, (Decimal("1e-9"), 1_000_000)),
    (Plan, "budget_usd_per_month", None, (Decimal("1e-9"), 1_000_000)),
    (Plan, "concurrency", None, (1, 100_000)),
    (Plan, "priority", 1, (1, 1000)),
    (CacheConfig, "ttl_s", 3600, (1, 2_592_000)),
    (CacheConfig, "max_temperature", 0.3, (0, 2)),
    (CacheConfig, "flight_wait_s", 30, SECONDS),
    (CacheConfig, "max_entry_bytes", 262_144, (1024, 8_388_608)),
    (RetryConfig, "max_attempts", 3, (1, 10)),
    (RetryConfig, "backoff_s", 0.2, (0, 10)),
    (RetryConfig, "breaker_threshold", 5, (1, 1000)),
    (RetryConfig, "breaker_cooldown_s", 30, SECONDS),
    (ServerConfig, "max_body_bytes", 10_485_760, (1024, 1_073_741_824)),
    (ServerConfig, "body_timeout_s", 30, SECONDS),
    (ServerConfig, "drain_s", 60, (1, 3600)),
    (ServerConfig, "heartbeat_s", 15, SECONDS),
    (ReserveConfig, "completion_tokens", 512, (0, 1_000_000)),
    (ReserveConfig, "worker_timeout_s", 15, SECONDS),
    (QueueConfig, "max_jobs", 500, (1, 100_000)),
    (QueueConfig, "max_bytes", 134_217_728, (16_384, 2**40)),
    (QueueConfig, "max_wait_s", 3600, SECONDS),
    (QueueConfig, "result_ttl_s", 3600, (1, 2_592_000)),
    (QueueConfig, "max_attempts", 3, (1, 100)),
    (QueueConfig, "retry_backoff_s", 1, (0, 3600)),
    (QueueConfig, "lease_s", 15, (2, 600)),
    (QueueConfig, "callback_attempts", 6, (1, 50)),
    (BatchConfig, "max_file_bytes", 104_857_600, (1024, 2**40)),
    (BatchConfig, "max_files_per_key", 1000, (1, 1_000_000)),
    (BatchConfig, "max_bytes_per_key", 2_147_483_648, (1024, 2**50)),
    (BatchConfig, "file_ttl_s", 2_592_000, (3600, 31_536_000)),
    (BatchConfig, "max_lines", 50_000, (1, 1_000_000)),
    (BatchConfig, "max_unfinished_per_key", 20, (1, 100_000)),
    (BatchConfig, "window", 50, (1, 10_000)),
    (SupportConfig, "max_tokens", 150, (1, 1_000_000)),
    (SupportConfig, "temperature", 0.7, (0, 2)),
    (SupportConfig, "max_message_chars", 4000, (1, None)),
    (SupportConfig, "history_messages", 20, (2, 1000)),
    (SupportConfig, "history_bytes", 65_536, (None, 16_777_216)),
    (SupportConfig, "history_ttl_s", 86_400, (1, 31_536_000)),
    (SmartRule, "min_prompt_characters", None, COUNT),
    *((SmartRule, f"{end}_{what}", None, COUNT) for end in ("min", "max") for what in ("prompt_tokens", "messages")),
    (OptimizerConfig, "keep_messages", 20, (1, 100_000)),
    (OptimizerConfig, "keep_tokens", None, COUNT),
    (OptimizerConfig, "small_talk_max_tokens", 256, COUNT),
    *(
        (PriceOverride, name, default, (0, 1_000_000))
        for name, default in (("completion", 0), ("cached", None), ("reasoning", None))
    ),
]
# What the sections cannot do without.
NEEDED: dict[type[Section], dict[str, Any]] = {
    ProviderConfig: {"kind": "demo"},
    TargetConfig: {"provider": "demo"},
    ModelConfig: {"targets": [{"provider": "demo"}]},
    SmartRule: {"name": "a", "model": "m"},
    PriceOverride: {"prompt": 1},
}


def parsed(section: type[Section], **fields: Any) -> Section:
    return section(**{**NEEDED.get(section, {}), **fields})


def is_refused(section: type[Section], **fields: Any) -> bool:
    try:
        parsed(section, **fields)
    except ValidationError:
        return True
    return False


@pytest.mark.parametrize(("section", "field", "default", "bounds"), NUMBERS)
def test_a_number_has_its_default_and_keeps_within_its_bounds(
    section: type[Section], field: str, default: Any, bounds: tuple[Any, Any]
) -> None:
    assert getattr(parsed(section), field) == default
    smallest, largest = bounds
    if smallest is not None:
        assert getattr(parsed(section, **{field: smallest}), field) == smallest
        assert is_refused(section, **{field: smallest - 1 if isinstance(smallest, int) else 0})
    if largest is not None:
        assert getattr(parsed(section, **{field: largest}), field) == largest
        assert is_refused(section, **{field: largest + 1})


def test_what_is_off_and_on_by_default() -> None:
    assert (CacheConfig().enabled, CacheConfig().shared) == (True, False)
    assert (DemoScript().omit_usage, DemoScript().reply) == (False, None)
    assert (OptimizerConfig().enabled, OptimizerConfig().small_talk_field) == (False, "max_tokens")
    assert (SmartConfig().rules, SmartConfig().default) == ((), None)
    assert ModelConfig(targets=(TargetConfig(provider="a"),)).fallbacks == ()
    assert ModelConfig(**NEEDED[ModelConfig]).owned_by == "penstock"
    assert (QueueConfig().callback_allow, ServerConfig().cors_origins) == ((), ())
    assert ServerConfig().metrics_networks == (
        "127.0.0.0/8",
        "::1/128",
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "fc00::/7",
    )


@pytest.mark.parametrize("field", ["optimizer", "smart", "support", "queue", "cache"])
def test_an_unknown_word_is_refused_wherever_it_stands(field: str) -> None:
    whole = {"providers": {"demo": {"kind": "demo"}}, "models": {"m": {"targets": [{"provider": "demo"}]}}}
    assert GatewayConfig.model_validate(whole).plans == {"default": Plan()}
    for more in ({"unknown": 1}, {field: {"unknown": 1}}):
        with pytest.raises(ValidationError):
            GatewayConfig.model_validate({**whole, **more})


def test_the_default_plan_is_there_beside_others_and_can_be_set() -> None:
    whole = {"providers": {"demo": {"kind": "demo"}}, "models": {"m": {"targets": [{"provider": "demo"}]}}}
    given = GatewayConfig.model_validate({**whole, "plans": {"free": {"concurrency": 1}}})
    assert given.plans == {"default": Plan(), "free": Plan(concurrency=1)}
    given = GatewayConfig.model_validate({**whole, "plans": {"default": {"concurrency": 2}}})
    assert given.plans == {"default": Plan(concurrency=2)}
    nothing: tuple[Any, ...] = (None, {})
    for empty in nothing:
        assert GatewayConfig.model_validate({**whole, "plans": empty}).plans == {"default": Plan()}


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("a", True),
        ("gpt-4.1 mini_x:y/z@1", True),
        ("x" * 256, True),
        ("", False),
        ("-a", False),
        ("a\n", False),
        ("x" * 257, False),
        ("ü", False),
    ],
)
def test_names_are_short_and_plain(name: str, right: bool) -> None:
    whole = {"providers": {name: {"kind": "demo"}}, "models": {name: {"targets": [{"provider": name}]}}}
    assert is_refused(GatewayConfig, **whole) is not right


@pytest.mark.parametrize(
    ("url", "right"),
    [
        ("https://api.example.com/v1", True),
        ("http://host:8000", True),
        ("https://h/v1/", True),
        ("ftp://h", False),
        ("https://user@h/v1", False),
        ("https://h/v1?x=1", False),
        ("https://h/v1#x", False),
        ("https://", False),
        ("x https://h", False),
        ("https://h/openai/deployments/{model}", True),
        ("https://h/{modell}/v1", False),
        ("https://h/{model/v1", False),
        ("https://{model}.h/v1", False),
    ],
)
def test_a_providers_address_is_plain(url: str, right: bool) -> None:
    assert is_refused(ProviderConfig, kind="openai", base_url=url) is not right


@pytest.mark.parametrize(
    ("kind", "base_url"),
    [
        ("anthropic", "https://api.anthropic.com"),
        ("gemini", "https://generativelanguage.googleapis.com"),
        ("openai", None),
        ("demo", None),
    ],
)
def test_a_vendor_that_is_the_only_one_of_its_kind_has_an_address(kind: str, base_url: str | None) -> None:
    for given in ({}, {"base_url": None}):
        assert ProviderConfig(kind=kind, **given).base_url == base_url
    assert ProviderConfig(kind=kind, base_url="http://h").base_url == "http://h"


def test_a_parameter_of_the_query_has_a_name() -> None:
    assert not is_refused(ProviderConfig, kind="openai", query={"api-version": "2024-10-21", "x": ""})
    assert is_refused(ProviderConfig, kind="openai", query={"": "x"})


def test_headers_are_what_a_header_can_carry() -> None:
    assert not is_refused(ProviderConfig, kind="openai", headers={"api-key": "x y"})
    for headers in ({"a b": "x"}, {"": "x"}, {"a": "x\r\ny: z"}, {"a:": "x"}):
        assert is_refused(ProviderConfig, kind="openai", headers=headers)


def test_callbacks_may_go_to_names_and_networks() -> None:
    assert not is_refused(QueueConfig, callback_allow=["hooks.example.com", "10.0.0.0/8", "host:8080", "fd00::/8"])
    for wrong in ("10.0.0.1/8", "not a name", "a/b", ""):
        assert is_refused(QueueConfig, callback_allow=[wrong])


def test_a_conversation_has_room_for_its_longest_message() -> None:
    assert not is_refused(SupportConfig, history_bytes=32_000, max_message_chars=4000)
    assert is_refused(SupportConfig, history_bytes=31_999, max_message_chars=4000)
    assert not is_refused(SupportConfig, history_bytes=1024, max_message_chars=128)
    assert is_refused(SupportConfig, history_bytes=1023, max_message_chars=1)
    assert not is_refused(SupportConfig, history_bytes=16_777_216, max_message_chars=1_000_000)
    assert is_refused(SupportConfig, history_bytes=16_777_216, max_message_chars=1_000_001)


def test_reasons_for_a_pick_are_told_apart_by_their_names() -> None:
    def rules(*names: str) -> dict[str, Any]:
        return {"rules": [{"name": name, "model": "m"} for name in names]}

    assert not is_refused(SmartConfig, **rules("a", "b-1_x", "x" * 64))
    for names in (("a", "a"), ("default",), ("named",), ("A",), ("x" * 65,), ("",), ("-a",)):
        assert is_refused(SmartConfig, **rules(*names))


def test_a_prompts_file_has_a_plain_name() -> None:
    assert not is_refused(SupportConfig, prompt="a.b_c-1.txt")
    assert not is_refused(SupportConfig, prompt="x" * 128)
    for wrong in ("", "../x", "a/b", ".x", "x" * 129):
        assert is_refused(SupportConfig, prompt=wrong)


def test_a_plan_has_a_budget_when_it_names_one() -> None:
    assert Plan(budget_usd_per_day=Decimal(1)).has_budget
    assert Plan(budget_usd_per_month=Decimal(1)).has_budget
    assert not Plan(tokens_per_day=1).has_budget


def test_a_price_is_in_dollars_and_has_bounds() -> None:
    price = PriceOverride(prompt=Decimal("0.5"))
    assert (price.prompt, price.completion, price.cached, price.reasoning) == (Decimal("0.5"), Decimal(0), None, None)
    for name, most in (("prompt", 1_000_000), ("request", 1_000_000_000)):
        assert not is_refused(PriceOverride, **{name: most})
        assert not is_refused(PriceOverride, **{name: 0})
        assert is_refused(PriceOverride, **{name: most + 1})
        assert is_refused(PriceOverride, **{name: -1})

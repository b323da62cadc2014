"""The shipped configuration in a real gateway: with a vendor's key that vendor answers, without one the demo model."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from openai import InternalServerError, OpenAI
from openai.types.chat import ChatCompletionMessageParam

from tests.support.servers import DEV_KEY, Gateway, wait_for
from tests.support.upstream import Upstream

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello"}]
CODE = [{"role": "user", "content": "```\nprint(1)\n```"}]
KEYLESS = (
    ("provider=openai", "set=OPENAI_API_KEY", "gpt-4.1-mini"),
    ("provider=anthropic", "set=ANTHROPIC_API_KEY", "claude-"),
    ("provider=gemini", "set=GEMINI_API_KEY", "gemini-"),
)
LONG = [{"role": "user", "content": "word " * 201}]


def shipped(vendor: Upstream) -> str:
    text = Path("config/gateway.yaml").read_text().replace("support: {prompt: support.txt}", "support: {}")
    assert "https://api.openai.com/v1" in text
    return text.replace("https://api.openai.com/v1", vendor.url)


def post(gateway: Gateway, path: str, body: dict[str, Any], key: str = DEV_KEY) -> tuple[dict[str, Any], Any]:
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    request = urllib.request.Request(gateway.url + path, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.loads(answer.read()), answer.headers


def test_with_a_vendors_key_calls_without_a_model_go_to_the_vendor(
    gateway: Callable[..., Gateway], upstream: Upstream
) -> None:
    prices = 'openai: {"*": {prompt: 1, completion: 2}}'
    started = gateway(shipped(upstream), env={"OPENAI_API_KEY": "sk-test-0123456789"}, prices=prices)
    premium = started.create_key(plan="premium")
    calls: list[tuple[str, dict[str, Any], str, str]] = [
        ("/api/v1/chat/completions", {"messages": HELLO}, DEV_KEY, "gpt-4.1-mini"),
        ("/v1/chat", {"message": "Hello", "user_id": "ann"}, DEV_KEY, "gpt-4.1-mini"),
        ("/v1/chat/completions", {"model": "auto", "messages": HELLO}, DEV_KEY, "gpt-4.1-nano"),
        ("/v1/chat/smart", {"messages": CODE}, DEV_KEY, "gpt-4.1-nano"),
        ("/v1/chat/smart", {"messages": HELLO}, premium, "gpt-4.1-nano"),
        ("/v1/chat/smart", {"messages": CODE}, premium, "gpt-4.1"),
        ("/v1/chat/smart", {"messages": LONG}, premium, "gpt-4.1"),
        ("/v1/chat/completions", {"model": "gpt-4o", "messages": HELLO}, DEV_KEY, "gpt-4o"),
        ("/v1/chat/completions", {"model": "demo", "messages": HELLO}, DEV_KEY, "demo"),
    ]
    for path, body, key, model in calls:
        _, headers = post(started, path, body, key)
        expected = (model, "demo" if model == "demo" else "openai")
        assert (headers["x-penstock-model"], headers["x-penstock-provider"]) == expected, (path, body)
    assert upstream.served()["by_model"] == {"gpt-4.1-mini": 2, "gpt-4.1-nano": 3, "gpt-4.1": 2, "gpt-4o": 1}
    assert "provider_without_key provider=openai" not in started.log()
    with OpenAI(base_url=f"{started.url}/v1", api_key=DEV_KEY) as client:
        listed = {model.id: model for model in client.models.list()}
    assert (listed["gpt-4o"].name, listed["gpt-4o"].max_tokens, listed["gpt-4o"].available) == ("GPT-4o", 16_384, True)  # type: ignore[attr-defined]
    started.drained()
    assert {row["model"] for row in started.rows("provider = 'openai'")} == {model for *_, model in calls} - {"demo"}


@pytest.mark.parametrize("key", ["", "  "])
def test_without_a_key_the_demo_model_answers_and_others_say_what_to_set(
    gateway: Callable[..., Gateway], upstream: Upstream, key: str
) -> None:
    started = gateway(shipped(upstream), env={"OPENAI_API_KEY": key})
    for path, body in (
        ("/api/v1/chat/completions", {"messages": HELLO}),
        ("/v1/chat", {"message": "Hello", "user_id": "ann"}),
        ("/v1/chat/completions", {"model": "auto", "messages": CODE}),
        ("/v1/chat/smart", {"messages": LONG}),
    ):
        _, headers = post(started, path, body, started.create_key(plan="premium"))
        assert (headers["x-penstock-model"], headers["x-penstock-provider"]) == ("demo", "demo"), path
    with OpenAI(base_url=f"{started.url}/v1", api_key=DEV_KEY, max_retries=2) as client:
        with pytest.raises(InternalServerError) as error:
            client.chat.completions.create(model="gpt-4o", messages=HELLO)
        listed = {model.id: model for model in client.models.list()}
        one = client.models.retrieve("gpt-4o")
    assert (error.value.status_code, error.value.code) == (503, "MODEL_UNAVAILABLE")
    assert "openai has no API key: set OPENAI_API_KEY" in error.value.message
    assert one.available is False  # type: ignore[attr-defined]
    assert listed["demo"].available is listed["auto"].available is True  # type: ignore[attr-defined]
    started.drained()
    failed = started.rows("model = 'gpt-4o'")
    assert [(row["status"], row["cost_nanousd"], row["attempts"]) for row in failed] == [("error", 0, 0)], (
        "not repeated"
    )
    assert upstream.served().get("by_model", {}) == {}


def test_what_is_missing_is_said_once_at_start_and_again_after_a_reload(
    gateway: Callable[..., Gateway], upstream: Upstream
) -> None:
    started = gateway(shipped(upstream), workers=2)
    lines = [line for line in started.log().splitlines() if "provider_without_key" in line]
    assert len(lines) == len(KEYLESS), "not one a worker"
    for line, told in zip(lines, KEYLESS, strict=True):
        assert all(word in line for word in ("info", *told)), line
    started.reload()
    wait_for(lambda: started.log().count("provider_without_key") == 2 * len(KEYLESS))
    production = gateway(shipped(upstream), env={"GATEWAY_ENV": "production", "DEV_API_KEY": ""})
    lines = [line for line in production.log().splitlines() if "provider_without_key" in line]
    assert [json.loads(line)["level"] for line in lines] == ["warning"] * len(KEYLESS)

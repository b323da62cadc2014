"""The ledger has what a vendor of any dialect bills, to the micro-dollar, whichever dialect the caller speaks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import Answer, post
from tests.support.servers import Gateway, RedisServer, flushed
from tests.support.usage_objects import USAGE_OBJECTS, UsageObject
from tests.support.vendors.server import Vendors

KINDS = {"messages": "anthropic", "gemini": "gemini"}
CALLERS = ("chat", "messages", "responses", "gemini")
SAID = "Hello"
# The played vendor repeats these fields in each chunk, which Google does not.
ONLY_WHOLE = [each.name for each in USAGE_OBJECTS if "candidates" in each.bill]


def config(vendors: Vendors) -> str:
    providers = {
        f"{each.dialect}-{each.prices}": {
            "kind": KINDS.get(each.dialect, "openai"),
            "base_url": vendors.base_url(each.dialect),
            "api_key": "sk-upstream",
            "prices": each.prices,
            "trust_reported_cost": each.prices == "openrouter",
        }
        for each in USAGE_OBJECTS
    }
    models = {
        f"m{number}": {
            "targets": [{"provider": f"{each.dialect}-{each.prices}", "model": each.model}],
            **({"wire": each.dialect} if each.dialect in ("chat", "responses") else {}),
        }
        for number, each in enumerate(USAGE_OBJECTS)
    }
    return json.dumps({"providers": providers, "models": models})


@pytest.fixture(scope="module")
def vendors() -> Iterator[Vendors]:
    with Vendors() as started:
        yield started


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer, vendors: Vendors) -> Iterator[Gateway]:
    flushed(redis_server.url)
    directory: Path = tmp_path_factory.mktemp("usage")
    with Gateway(directory, config(vendors), redis_url=redis_server.url) as started:
        yield started


def call(gateway: Gateway, key: str, caller: str, model: str, *, stream: bool, request_id: str) -> Answer:
    turn = [{"role": "user", "content": SAID}]
    bodies: dict[str, dict[str, Any]] = {
        "chat": {"model": model, "messages": turn, "stream": stream},
        "messages": {"model": model, "messages": turn, "max_tokens": 100, "stream": stream},
        "responses": {"model": model, "input": SAID, "stream": stream},
        "gemini": {"contents": [{"role": "user", "parts": [{"text": SAID}]}]},
    }
    method = "streamGenerateContent?alt=sse" if stream else "generateContent"
    paths = {
        "chat": "/v1/chat/completions",
        "messages": "/v1/messages",
        "responses": "/v1/responses",
        "gemini": f"/v1beta/models/{model}:{method}",
    }
    headers = {"X-Request-ID": request_id, "X-Session-ID": f"session-of-{caller}"}
    return post(gateway.port, bodies[caller], key, path=paths[caller], headers=headers)


def differences(each: UsageObject, row: dict[str, Any]) -> dict[str, Any]:
    """Returns what in the row is not as the vendor billed it: the row's value, and the wanted one."""
    wanted = {**each.row, "micro_usd": round(each.micro_usd, 2), "estimated": 0, "status": "ok"}
    found = {**row, "micro_usd": round(row["cost_nanousd"] / 1000, 2)}
    return {name: (found[name], value) for name, value in wanted.items() if found[name] != value}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("caller", CALLERS)
def test_the_ledger_has_the_vendors_bill(gateway: Gateway, vendors: Vendors, caller: str, stream: bool) -> None:
    key, asked, refused = gateway.create_key(), {}, {}
    for number, each in enumerate(USAGE_OBJECTS):
        if stream and each.name in ONLY_WHOLE:
            continue
        vendors.bill(each.model, each.streamed_bill if stream else each.whole_bill)
        request_id = f"{caller}-{stream}-{number}"
        answer = call(gateway, key, caller, f"m{number}", stream=stream, request_id=request_id)
        if answer.status != 200:
            refused[each.name] = answer.body[:300]
        asked[request_id] = each
    assert refused == {}
    gateway.drained()
    rows = {row["request_id"]: row for row in gateway.rows(f"request_id like '{caller}-{stream}-%'")}
    assert sorted(rows) == sorted(asked)
    wrong = {each.name: differences(each, rows[request_id]) for request_id, each in asked.items()}
    assert {name: found for name, found in wrong.items() if found} == {}
    assert {row["session"] for row in rows.values()} == {f"session-of-{caller}"}
    assert all(row["price_version"].startswith("genai-prices ") for row in rows.values())

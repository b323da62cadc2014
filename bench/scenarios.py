"""Scenarios of the benchmark: each is one kind of call, made again and again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# Limits of every kind, none of which is ever reached: checking them is part of the price.
CONFIG = """
providers:
  up: {{kind: openai, base_url: {url}, api_key: sk-bench}}
models:
  plain: {{targets: [{{provider: up}}]}}
  slow-50: {{targets: [{{provider: up}}]}}
  stream-50-20: {{targets: [{{provider: up}}]}}
  stream-5-0: {{targets: [{{provider: up}}]}}
  embed: {{targets: [{{provider: up}}]}}
plans:
  default:
    {{requests_per_minute: 100000000, tokens_per_minute: 100000000000, requests_per_day: 1000000000,
     tokens_per_day: 1000000000000, budget_usd_per_month: 900000, concurrency: 100000}}
  one: {{tokens_per_minute: 1}}
"""
PRICES = 'up: {"*": {prompt: 0.4, completion: 1.6, cached: 0.1}}'
VALID, LIMITED, WRONG = "valid", "limited", "wrong"


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One kind of call: the request, the load, and the answer that is expected."""

    name: str
    body: dict[str, Any] | None  # none: a GET
    calls: int
    concurrency: int = 32
    path: str = "/v1/chat/completions"
    status: str = "200"
    key: str = VALID
    chunks: int = 0  # content chunks expected for each call
    chunk_ms: int = 0
    every_ms: int = 0  # each client calls this often; 0: one call after the other
    at: str = "gateway"  # hello | proxy (bare nginx) | gateway | edge (nginx with TLS before the gateway)
    direct: bool = True  # the vendor can be asked the same without the gateway

    @property
    def is_stream(self) -> bool:
        return self.chunks > 0

    @property
    def is_yardstick(self) -> bool:
        return self.at in ("hello", "proxy")


def question(model: str, padding: int = 0, **more: Any) -> dict[str, Any]:
    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "What is a penstock?" + "x" * padding},
    ]
    return {"model": model, "messages": messages, **more}


_STREAM = question("stream-50-20", stream=True)
SCENARIOS = (
    Scenario(name="bare Flask hello", body=question("plain"), calls=5000, at="hello", direct=False),
    Scenario(name="completion", body=question("plain"), calls=4000),
    Scenario(name="completion, vendor takes 50 ms", body=question("slow-50"), calls=2000, concurrency=64),
    Scenario(name="completion through nginx with TLS", body=question("plain"), calls=3000, at="edge"),
    Scenario(name="cached completion", body=question("plain", temperature=0), calls=4000, direct=False),
    Scenario(name="embeddings", body={"model": "embed", "input": "a penstock"}, calls=2000, path="/v1/embeddings"),
    Scenario(name="100 KB prompt", body=question("plain", padding=100_000), calls=1000),
    Scenario(name="401", body=question("plain"), calls=4000, status="401", key=WRONG, direct=False),
    Scenario(name="429", body=question("plain"), calls=4000, status="429", key=LIMITED, direct=False),
    Scenario(name="50 chunks, 200 streams at once", body=_STREAM, calls=600, concurrency=200, chunks=50, chunk_ms=20),
    Scenario(
        name="50 chunks, 1000 streams at once", body=_STREAM, calls=1000, concurrency=1000, chunks=50, chunk_ms=20
    ),
    Scenario(name="bare nginx, completion", body=question("plain"), calls=5000, at="proxy"),
    Scenario(
        name="bare nginx, 50 chunks, 200 streams at once",
        body=_STREAM,
        calls=600,
        concurrency=200,
        chunks=50,
        chunk_ms=20,
        at="proxy",
    ),
)

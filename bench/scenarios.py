"""Scenarios of the benchmark: each is one kind of call, made again and again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# Limits of every kind, none of which is ever reached: checking them is part of the price.
_CONFIG = """
providers:
  up: {{kind: openai, base_url: {url}, api_key: sk-bench}}
  claude: {{kind: anthropic, base_url: {root}, api_key: sk-bench}}
  google: {{kind: gemini, base_url: {root}, api_key: sk-bench}}
models:
  plain: {{targets: [{{provider: up}}]}}
  slow-50: {{targets: [{{provider: up}}]}}
  stream-50-20: {{targets: [{{provider: up}}]}}
  stream-5-0: {{targets: [{{provider: up}}]}}
  messages-plain: {{targets: [{{provider: claude, model: plain}}]}}
  messages-stream: {{targets: [{{provider: claude, model: stream-50-20}}]}}
  responses-plain: {{targets: [{{provider: up, model: plain}}], wire: responses}}
  responses-stream: {{targets: [{{provider: up, model: stream-50-20}}], wire: responses}}
  gemini-plain: {{targets: [{{provider: google, model: plain}}]}}
  gemini-stream: {{targets: [{{provider: google, model: stream-50-20}}]}}
  embed: {{targets: [{{provider: up}}]}}
plans:
  default:
    {{requests_per_minute: 100000000, tokens_per_minute: 100000000000, requests_per_day: 1000000000,
     tokens_per_day: 1000000000000, budget_usd_per_month: 900000, concurrency: 100000}}
  one: {{tokens_per_minute: 1}}
"""
_PRICE = '{"*": {prompt: 0.4, completion: 1.6, cached: 0.1}}'
PRICES = f"up: {_PRICE}\nclaude: {_PRICE}\ngoogle: {_PRICE}"


def config_for(vendor_url: str) -> str:
    """Returns the gateway's configuration for a vendor at `vendor_url`, which ends in its version."""
    return _CONFIG.format(url=vendor_url, root=vendor_url.removesuffix("/v1"))


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


def message(model: str, **more: Any) -> dict[str, Any]:
    """The same question as Anthropic's clients ask it."""
    system, user = question(model)["messages"]
    return {"model": model, "max_tokens": 1000, "system": system["content"], "messages": [user], **more}


def response(model: str, **more: Any) -> dict[str, Any]:
    """The same question as clients of OpenAI's Responses ask it; nothing is stored, as with chat completions."""
    system, user = question(model)["messages"]
    return {"model": model, "instructions": system["content"], "input": [user], "store": False, **more}


def contents() -> dict[str, Any]:
    """The same question as Google's clients ask it; their paths name the model."""
    system, user = (each["content"] for each in question("")["messages"])
    return {
        "systemInstruction": {"parts": [{"text": system}]},
        "contents": [{"role": "user", "parts": [{"text": user}]}],
    }


def _streams(name: str, body: dict[str, Any], path: str = "/v1/chat/completions") -> Scenario:
    return Scenario(
        name=f"50 chunks, 200 streams at once, {name}",
        body=body,
        calls=600,
        concurrency=200,
        path=path,
        chunks=50,
        chunk_ms=20,
        direct=False,
    )


_GEMINI, _GEMINI_STREAM = (
    "/v1beta/models/gemini-plain:generateContent",
    "/v1beta/models/gemini-stream:streamGenerateContent",
)
# A caller's dialect and a vendor's: C chat completions, M messages, R responses, G generateContent.
DIALECTS = (
    Scenario(name="M to M", body=message("messages-plain"), calls=4000, path="/v1/messages", direct=False),
    Scenario(name="R to R", body=response("responses-plain"), calls=4000, path="/v1/responses", direct=False),
    Scenario(name="G to G", body=contents(), calls=4000, path=_GEMINI, direct=False),
    Scenario(name="C to M", body=question("messages-plain"), calls=4000, direct=False),
    Scenario(name="C to R", body=question("responses-plain"), calls=4000, direct=False),
    Scenario(name="C to G", body=question("gemini-plain"), calls=4000, direct=False),
    Scenario(name="M to C", body=message("plain"), calls=4000, path="/v1/messages", direct=False),
    Scenario(name="R to C", body=response("plain"), calls=4000, path="/v1/responses", direct=False),
    Scenario(name="R to M", body=response("messages-plain"), calls=4000, path="/v1/responses", direct=False),
    Scenario(name="M to G", body=message("gemini-plain"), calls=4000, path="/v1/messages", direct=False),
    _streams("M to M", message("messages-stream", stream=True), "/v1/messages"),
    _streams("R to R", response("responses-stream", stream=True), "/v1/responses"),
    _streams("G to G", contents(), f"{_GEMINI_STREAM}?alt=sse"),
    _streams("C to M", question("messages-stream", stream=True)),
    _streams("M to C", message("stream-50-20", stream=True), "/v1/messages"),
    _streams("R to C", response("stream-50-20", stream=True), "/v1/responses"),
    _streams("M to G", message("gemini-stream", stream=True), "/v1/messages"),
)

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
    *DIALECTS,
)

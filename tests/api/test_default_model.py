"""A call that names no model, and a model whose provider has no key: as callers, the ledger and the vendor see them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.api.conftest import AppClient
from tests.api.test_auto import error_of, sent
from tests.api.test_jobs import JobWorker, ask, job_of, open_reservations
from tests.support.response import AppResponse
from tests.support.upstream import Upstream

HELLO = [{"role": "user", "content": "Hello there"}]
CONFIG = """
providers:
  up: {kind: openai, base_url: "http://127.0.0.1:9/v1", api_key: "${UP_KEY:-}"}
  demo: {kind: demo, script: {chunk_delay_s: 0}}
models:
  vendors: {targets: [up], name: The vendor's, description: Strong., max_output_tokens: 4096}
  safe: {targets: [up], fallbacks: [demo]}
  first: {targets: [demo]}
  second: {targets: [demo]}
  vectors: {kind: embedding, targets: [demo]}
plans:
  two: {requests_per_minute: 2}
  cents: {budget_usd_per_day: 1, concurrency: 1}
  premium: {}
smart:
  rules:
    - {name: code, plans: [premium], has: [code], model: vendors}
    - {name: long, plans: [premium], min_prompt_characters: 1001, model: second}
  default: vendors
"""


@pytest.fixture
def plain(client_with: Callable[[str], AppClient]) -> AppClient:
    return client_with(CONFIG)


def post(client: AppClient, path: str = "/v1/chat/completions", **more: Any) -> AppResponse:
    key, headers = more.pop("key", None), more.pop("headers", None)
    return client.post(json.dumps({"messages": HELLO, **more}), path=path, key=key, headers=headers)


def model_of(answer: AppResponse) -> str:
    assert answer.status_code == 200, answer.text
    return answer.headers["x-penstock-model"]


@pytest.mark.parametrize("prefix", ["/v1", "/api/v1"])
@pytest.mark.parametrize("more", [{}, {"model": None}, {"stream": True}])
def test_a_body_of_only_messages_is_answered(plain: AppClient, prefix: str, more: dict[str, Any]) -> None:
    answer = post(plain, f"{prefix}/chat/completions", **more)
    assert model_of(answer) == "safe", "the first of the file that can be served"
    [row] = plain.rows()
    assert (row["model"], row["upstream_model"], row["provider"], row["status"]) == ("safe", "safe", "demo", "ok")
    assert row["tags"] == ""


def test_the_default_counts_and_is_cached_as_if_it_had_been_named(plain: AppClient) -> None:
    key = plain.services.keys.create("two", plan="two")[0]
    answers = [post(plain, key=key, temperature=0), post(plain, key=key, temperature=0, model="safe")]
    assert [answer.headers["x-penstock-cache"] for answer in answers] == ["miss", "hit"]
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == ["1", "0"]
    assert post(plain, key=key).status_code == 429
    first, second = plain.rows()
    assert first["model"] == second["model"] == "safe"
    assert first["cost_nanousd"] > 0


def test_the_configured_default_goes_before_the_files_order(client_with: Callable[[str], AppClient]) -> None:
    assert model_of(post(client_with(CONFIG + "default_model: second\n"))) == "second"
    assert model_of(post(client_with(CONFIG + "default_model: vendors\n"))) == "safe", "it cannot be served"
    picking = client_with(CONFIG + "default_model: auto\n")
    answer = post(
        picking,
        key=picking.services.keys.create("p", plan="premium")[0],
        messages=[{"role": "user", "content": "x" * 1001}],
    )
    assert (model_of(answer), answer.headers["x-penstock-route-reason"]) == ("second", "long")


def test_the_default_is_a_model_that_the_key_may_use(plain: AppClient) -> None:
    def key(*models: str) -> str:
        return plain.services.keys.create("narrow", models=list(models))[0]

    assert model_of(post(plain, key=key("second", "vendors"))) == "second"
    answer = post(plain, key=key("vendors"))
    assert (error_of(answer), "UP_KEY" in answer.json["error"]["message"]) == ((503, "MODEL_UNAVAILABLE", None), True)
    assert error_of(post(plain, key=key("vectors"))) == (400, "INVALID_REQUEST", "model")


def test_the_vendor_reads_the_default_models_name(client_with: Callable[[str], AppClient], upstream: Upstream) -> None:
    client = client_with(f"""
providers: {{up: {{kind: openai, base_url: "{upstream.url}"}}}}
models: {{echo: {{targets: [up]}}}}
""")
    assert sent(post(client, seed=7)) == {"messages": HELLO, "seed": 7, "model": "echo"}
    assert sent(post(client, model=None)) == {"messages": HELLO, "model": "echo"}


def test_a_queued_call_needs_no_model_and_its_repetition_is_the_same_job(plain: AppClient) -> None:
    headers = {"Idempotency-Key": "once"}
    jobs = [job_of(post(plain, "/api/v1/chat/async", headers=headers)) for _ in range(2)]
    assert jobs[0] == jobs[1]
    JobWorker(plain).run()
    done = ask(plain, jobs[0]).json
    assert (done["status"], done["model"], done["provider"]) == ("completed", "safe", "demo")
    assert [row["model"] for row in plain.rows()] == ["safe"]


def test_embeddings_have_no_default(plain: AppClient) -> None:
    """A vector is of use only beside others of the same model."""
    answer = plain.post(json.dumps({"input": "x"}), path="/v1/embeddings")
    assert error_of(answer) == (400, "INVALID_REQUEST", "model")


@pytest.mark.parametrize("stream", [False, True])
def test_a_model_without_its_providers_key_is_unavailable_and_says_so(plain: AppClient, stream: bool) -> None:
    key = plain.services.keys.create("cents", plan="cents")[0]
    for _ in range(2):  # what was reserved is free again
        answer = plain.chat("vendors", key=key, stream=stream)
        assert error_of(answer) == (503, "MODEL_UNAVAILABLE", None)
        assert answer.json["error"]["message"] == "The model is unavailable: up has no API key: set UP_KEY."
        assert (answer.headers["x-should-retry"], "Retry-After" in answer.headers) == ("false", False)
    assert plain.asked == []
    assert open_reservations(plain) == []
    rows = plain.rows()
    assert [(row["status"], row["http_status"], row["attempts"], row["cost_nanousd"]) for row in rows] == [
        ("error", 503, 0, 0)
    ] * 2
    assert {row["provider"] for row in rows} == {"up"}


def test_a_fallback_stands_in_for_a_provider_without_a_key(plain: AppClient) -> None:
    answer = plain.chat("safe")
    assert (answer.status_code, answer.headers["x-penstock-provider"]) == (200, "demo")
    assert (answer.headers["x-penstock-attempts"], plain.asked) == ("1", ["demo"])


def test_a_job_for_a_model_without_a_key_fails_at_once(plain: AppClient) -> None:
    job = job_of(post(plain, "/v1/chat/async", model="vendors"))
    JobWorker(plain).run()
    done = ask(plain, job).json
    assert (done["status"], done["error"]["code"], done["attempts"]) == ("failed", "MODEL_UNAVAILABLE", 1)
    assert "UP_KEY" in done["error"]["message"]
    assert [(row["status"], row["cost_nanousd"]) for row in plain.rows()] == [("error", 0)]


def test_embeddings_of_a_provider_without_a_key_say_so_too(client_with: Callable[[str], AppClient]) -> None:
    client = client_with(CONFIG.replace("vectors: {kind: embedding, targets: [demo]}", "vectors: {targets: [up]}"))
    answer = client.post(json.dumps({"model": "vectors", "input": "x"}), path="/v1/embeddings")
    assert error_of(answer) == (503, "MODEL_UNAVAILABLE", None)
    assert "UP_KEY" in answer.json["error"]["message"]
    assert client.asked == []


def test_rules_whose_model_cannot_be_served_are_skipped(plain: AppClient) -> None:
    key = plain.services.keys.create("premium", plan="premium")[0]
    code = [{"role": "user", "content": "```\nprint(1)\n```"}]
    answer = plain.chat("auto", key=key, messages=code)
    assert (model_of(answer), answer.headers["x-penstock-route-reason"]) == ("safe", "default")
    long = post(plain, "/v1/chat/smart", key=key, messages=[{"role": "user", "content": "ü" * 1001}])
    assert (model_of(long), long.headers["x-penstock-route-reason"]) == ("second", "long")
    short = post(plain, "/v1/chat/smart", key=key, messages=[{"role": "user", "content": "ü" * 1000}])
    assert short.headers["x-penstock-route-reason"] == "default"


@pytest.mark.parametrize("prefix", ["/v1", "/api/v1"])
def test_models_are_listed_with_description_length_and_availability(plain: AppClient, prefix: str) -> None:
    listed = {model["id"]: model for model in plain.get(f"{prefix}/models", key=plain.key).json["data"]}
    assert list(listed) == ["vendors", "safe", "first", "second", "vectors", "auto"]
    entry = listed["vendors"]
    assert entry == {
        "id": "vendors",
        "object": "model",
        "created": 1_700_000_000,
        "owned_by": "penstock",
        "name": "The vendor's",
        "description": "Strong.",
        "max_tokens": 4096,
        "context_window": None,
        "max_output_tokens": 4096,
        "prices": {"completion": "2", "prompt": "1"},
        "capabilities": None,
        "available": False,
        "reason": "up has no API key: set UP_KEY",
    }
    assert plain.get(f"{prefix}/models/vendors", key=plain.key).json == entry
    first = listed["first"]
    assert (first["name"], first["description"], first["max_tokens"]) == ("first", None, 16_384)
    assert (first["available"], first["reason"]) == (True, None)
    assert listed["safe"]["available"], "its fallback serves it"
    assert listed["vectors"]["max_tokens"] is None
    assert listed["auto"]["available"]
    narrow = plain.services.keys.create("narrow", models=["vendors"])[0]
    assert [model["available"] for model in plain.get(f"{prefix}/models", key=narrow).json["data"]] == [False, False]

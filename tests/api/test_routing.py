"""Routing: the order and number of calls to targets, and their trace in the answer and in the ledger."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable

import pytest

from tests.api.conftest import AppClient
from tests.support.providers import scripted_server

CONFIG = """
providers:
  a: {kind: demo, script: {chunk_delay_s: 0}}
  b: {kind: demo, script: {chunk_delay_s: 0}}
  spare: {kind: demo, script: {chunk_delay_s: 0}}
  bad: {kind: demo, script: {fail_status: 500}}
  worse: {kind: demo, script: {fail_status: 503}}
  once: {kind: demo, script: {fail_status: 500, fail_times: 1}}
  twice: {kind: demo, script: {fail_status: 500, fail_times: 2}}
  twenty: {kind: demo, script: {fail_status: 500, fail_times: 20}}
  strict: {kind: demo, script: {fail_status: 400}}
  mute: {kind: demo, script: {cut_after_chunks: 0}}
models:
  plain: {targets: [{provider: a}]}
  chain: {targets: [{provider: bad}], fallbacks: [worse, {provider: spare, model: other-name}, a]}
  to-alias: {targets: [{provider: bad}], fallbacks: [plain]}
  both: {targets: [{provider: a, weight: 75}, {provider: b, weight: 25}]}
  never-b: {targets: [{provider: a, weight: 1}, {provider: b, weight: 0}]}
  still-b: {targets: [{provider: bad, weight: 1}, {provider: b, weight: 0}], fallbacks: [spare]}
  alone: {targets: [{provider: bad}]}
  once: {targets: [{provider: once}]}
  twice: {targets: [{provider: twice}]}
  twenty: {targets: [{provider: twenty}]}
  strict: {targets: [{provider: strict}], fallbacks: [spare]}
  mute: {targets: [{provider: mute}], fallbacks: [spare]}
  long-chain: {targets: [{provider: bad}], fallbacks: [worse, mute, once, spare]}
retry: {max_attempts: 3, backoff_s: 0.2, breaker_threshold: %d, breaker_cooldown_s: 30}
cache: {enabled: false}
"""


LIMITED = b"HTTP/1.1 429 X\r\nRetry-After: 40\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture
def routed(client_with: Callable[[str], AppClient]) -> AppClient:
    """Breakers that stay out of the way."""
    return client_with(CONFIG % 1000)


@pytest.mark.parametrize("stream", [False, True])
def test_fallbacks_are_asked_in_the_order_in_which_they_are_written(routed: AppClient, stream: bool) -> None:
    answer = routed.chat("chain", stream=stream)
    assert answer.status_code == 200
    assert routed.asked == ["bad", "worse", "spare"]
    told = [answer.headers[f"x-penstock-{name}"] for name in ("model", "provider", "attempts")]
    assert told == ["chain", "spare", "3"]
    [row] = routed.rows()
    assert (row["model"], row["provider"], row["upstream_model"], row["attempts"]) == (
        "chain",
        "spare",
        "other-name",
        3,
    )
    assert row["status"] == "ok"


def test_a_fallback_may_be_another_model(routed: AppClient) -> None:
    assert routed.chat("to-alias").headers["x-penstock-provider"] == "a"
    assert routed.rows()[0]["upstream_model"] == "plain"


def test_a_stream_falls_back_as_long_as_nothing_was_sent(routed: AppClient) -> None:
    answer = routed.chat("mute", stream=True)
    assert answer.text.rstrip().endswith("[DONE]")
    assert routed.asked == ["mute", "spare"]


def test_no_more_attempts_than_configured_whoever_is_left(routed: AppClient) -> None:
    answer = routed.chat("long-chain", stream=True)
    assert (answer.status_code, answer.json["code"]) == (502, "MODEL_ERROR")
    assert routed.asked == ["bad", "worse", "mute"]
    [row] = routed.rows()
    assert (row["status"], row["attempts"], row["cost_nanousd"]) == ("error", 3, 0)


def test_weights_are_shares_of_first_attempts(routed: AppClient) -> None:
    random.seed(20)
    for _ in range(400):
        assert routed.chat("both").status_code == 200
    shares = Counter(routed.asked)
    assert shares.total() == 400
    assert 250 < shares["a"] < 350, shares  # six standard deviations


def test_a_target_without_weight_only_stands_in(routed: AppClient) -> None:
    for _ in range(50):
        routed.chat("never-b")
    assert set(routed.asked) == {"a"}
    routed.asked.clear()
    assert routed.chat("still-b").headers["x-penstock-provider"] == "b"
    assert routed.asked == ["bad", "b"], "before the fallbacks"


def test_a_single_target_is_asked_again_after_growing_pauses(routed: AppClient) -> None:
    assert routed.chat("twice").headers["x-penstock-attempts"] == "3"
    assert routed.pauses == [0.2, 0.4]
    assert routed.chat("once").headers["x-penstock-attempts"] == "2"
    assert routed.rows()[0]["status"] == "ok"


def test_a_single_target_that_keeps_failing_is_the_callers_error(routed: AppClient) -> None:
    answer = routed.chat("alone")
    assert (answer.status_code, answer.json["code"]) == (502, "MODEL_ERROR")
    assert routed.asked == ["bad"] * 3
    [row] = routed.rows()
    assert (row["status"], row["http_status"], row["attempts"]) == ("error", 502, 3)


def test_what_the_caller_got_wrong_is_not_tried_elsewhere(routed: AppClient) -> None:
    answer = routed.chat("strict")
    assert (answer.status_code, answer.json["code"]) == (400, "INVALID_REQUEST")
    assert routed.asked == ["strict"]


def test_a_breaker_opens_after_failures_in_a_row_and_then_nobody_is_asked(
    client_with: Callable[[str], AppClient],
) -> None:
    broken = client_with(CONFIG % 2)
    assert broken.chat("alone").status_code == 502
    assert broken.asked == ["bad"] * 2, "open in the middle of the call's own retries"
    assert broken.pauses == [0.2], "no pause before nothing"
    refused = broken.chat("alone")
    assert (refused.status_code, refused.json["code"]) == (503, "MODEL_UNAVAILABLE")
    assert refused.headers["Retry-After"] == "5"
    assert broken.asked == ["bad"] * 2, "nobody was asked"
    assert broken.services.router.states()["bad/alone"] == "open"
    assert 'llm_breaker_state{target="bad/alone"} 2.0' in broken.get("/metrics").text
    assert [(row["status"], row["attempts"]) for row in broken.rows()] == [("error", 2), ("error", 0)]
    assert broken.chat("plain").status_code == 200, "other targets are not concerned"


def test_an_open_breaker_lets_one_call_probe_when_it_has_cooled_down(client_with: Callable[[str], AppClient]) -> None:
    broken = client_with(CONFIG % 1)
    assert broken.chat("twice").status_code == 502
    broken.clock_offset_s[0] = 29.0
    assert broken.chat("twice").status_code == 503
    broken.clock_offset_s[0] = 31.0
    assert broken.services.router.states()["twice/twice"] == "half_open"
    assert broken.chat("twice").status_code == 502, "the probe fails, and it opens again"
    assert broken.chat("twice").status_code == 503
    assert broken.asked == ["twice"] * 2
    broken.clock_offset_s[0] = 62.0
    assert broken.chat("twice").status_code == 200
    assert broken.services.router.states()["twice/twice"] == "closed"
    assert broken.chat("twice").status_code == 200


def test_an_open_breaker_sends_calls_straight_to_the_fallback(client_with: Callable[[str], AppClient]) -> None:
    broken = client_with(CONFIG % 1)
    assert broken.chat("to-alias").headers["x-penstock-attempts"] == "2"
    broken.asked.clear()
    answer = broken.chat("to-alias")
    assert (answer.headers["x-penstock-attempts"], answer.headers["x-penstock-provider"]) == ("1", "a")
    assert broken.asked == ["a"]


def test_the_callers_own_mistakes_open_no_breaker(client_with: Callable[[str], AppClient]) -> None:
    strict = client_with(CONFIG % 1)
    for _ in range(3):
        assert strict.chat("strict").status_code == 400
    assert strict.services.router.states()["strict/strict"] == "closed"
    assert strict.asked == ["strict"] * 3


def test_no_number_of_one_keys_failing_calls_closes_a_model_to_another_key(
    client_with: Callable[[str], AppClient],
) -> None:
    broken = client_with(CONFIG % 2)
    mine, _ = broken.services.keys.create("mine")
    for _ in range(5):
        broken.chat("twenty", key=mine)
    assert broken.chat("twenty", key=mine).status_code == 503
    broken.asked.clear()
    other, _ = broken.services.keys.create("other")
    broken.chat("twenty", key=other)
    assert broken.asked == ["twenty"], "asked, and it decides"
    assert broken.chat("twenty").status_code == 503, "two keys have seen it fail"


def test_a_vendor_that_limits_our_calls_is_left_alone_as_long_as_it_said(
    client_with: Callable[[str], AppClient],
) -> None:
    with scripted_server(lambda sock: sock.sendall(LIMITED)) as url:
        config = (CONFIG % 1).replace("providers:", f"providers:\n  vendor: {{kind: openai, base_url: {url}}}")
        limited = client_with(config.replace("models:", "models:\n  vendors: {targets: [{provider: vendor}]}"))
        first = limited.chat("vendors")
        assert (first.status_code, first.headers["Retry-After"]) == (503, "40")
        limited.clock_offset_s[0] = 10.5
        second = limited.chat("vendors")
        assert (second.status_code, second.headers["Retry-After"]) == (503, "30")
        assert limited.asked == ["vendor"]
        assert limited.services.router.states()["vendor/vendors"] == "closed"


def test_a_key_is_not_served_by_a_fallback_model_that_it_may_not_use(routed: AppClient) -> None:
    narrow, _ = routed.services.keys.create("narrow", models=["to-alias"])
    refused = routed.chat("to-alias", key=narrow)
    assert (refused.status_code, refused.json["code"]) == (502, "MODEL_ERROR")
    assert "a" not in routed.asked
    wide, _ = routed.services.keys.create("wide", models=["to-alias", "plain"])
    assert routed.chat("to-alias", key=wide).headers["x-penstock-provider"] == "a"


def test_embeddings_are_routed_alike(routed: AppClient) -> None:
    answer = routed.post(json.dumps({"model": "chain", "input": "Hello"}), path="/v1/embeddings")
    assert (answer.status_code, answer.headers["x-penstock-provider"]) == (200, "spare")
    assert routed.asked == ["bad", "worse", "spare"]
    assert routed.rows()[0]["endpoint"] == "embeddings"

"""Money and limits are exact under parallel calls over two workers, whatever order they come in."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.support.client import chat, in_parallel, post
from tests.support.servers import Gateway, RedisServer, flushed
from tests.support.upstream import Upstream

# A call to `usage-100-50` costs 100 × $10/M + 50 × $20/M = $0.002; the plan's budget is for ten of them.
PRICES = 'up: {"usage-100-50": {prompt: 10, completion: 20}, "usage-1000-100-400-60": '
PRICES += '{prompt: 10, completion: 20, cached: 1, reasoning: 40}, "slow-150": {prompt: 0, completion: 0}}\n'
CONFIG = """
providers:
  up: {{kind: openai, base_url: {url}, api_key: sk-upstream-secret-key}}
models:
  usage-100-50: {{targets: [{{provider: up}}]}}
  usage-1000-100-400-60: {{targets: [{{provider: up}}]}}
  slow-150: {{targets: [{{provider: up}}]}}
  slow-1000-300: {{targets: [{{provider: up}}]}}
  nobody-knows-its-price: {{targets: [{{provider: up}}]}}
plans:
  budget: {{budget_usd_per_month: 0.02}}
  three: {{concurrency: 3}}
  five: {{requests_per_minute: 5}}
  tokens: {{tokens_per_minute: 1000, tokens_per_day: 100000}}
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer, vendor: Upstream) -> Iterator[Gateway]:
    flushed(redis_server.url)
    directory: Path = tmp_path_factory.mktemp("money")
    with Gateway(directory, CONFIG.format(url=vendor.url), redis_url=redis_server.url, prices=PRICES) as started:
        yield started


def key_id(gateway: Gateway, key: str) -> str:
    return next(info.key_id for info in gateway.services.keys.list() if key.startswith(info.prefix))


def counter(gateway: Gateway, key: str, name: str) -> int:
    found = gateway.services.redis.execute("KEYS", f"penstock:limit:{key_id(gateway, key)}:{name}*")
    assert len(found) == 1
    return int(gateway.services.redis.execute("GET", found[0]))


def test_bug_03_fifty_parallel_calls_never_spend_more_than_the_budget(gateway: Gateway) -> None:
    key = gateway.create_key(plan="budget")
    call = partial(post, gateway.port, chat("usage-100-50", max_tokens=50), key)
    answers = in_parallel([call] * 50)
    statuses = Counter(answer.status for answer in answers)
    assert set(statuses) == {200, 429}
    for refused in (answer for answer in answers if answer.status == 429):
        assert refused.code == "BUDGET_EXCEEDED"
        assert refused.headers["x-should-retry"] == "false"
        assert int(refused.headers["retry-after"]) <= 60
    # Reservations are ceilings: when they are corrected there is room again, until the budget is really used.
    while post(gateway.port, chat("usage-100-50", max_tokens=50), key).status == 200:
        pass
    gateway.drained()
    rows = gateway.rows(f"key_id = '{key_id(gateway, key)}'")
    spent = sum(row["cost_nanousd"] for row in rows)
    assert {row["cost_nanousd"] for row in rows} == {2_000_000}
    assert 8 <= len(rows) <= 10
    assert spent <= 20_000_000
    assert counter(gateway, key, "budget_usd_per_month") == spent


def test_no_more_calls_at_once_than_the_plan_allows(gateway: Gateway) -> None:
    key = gateway.create_key(plan="three")
    answers = in_parallel([partial(post, gateway.port, chat("slow-150"), key)] * 20)
    assert Counter(answer.status for answer in answers) == {200: 3, 429: 17}
    assert post(gateway.port, chat("slow-150"), key).status == 200, "the slots are free again"


def test_a_rate_is_exact_under_parallel_calls(gateway: Gateway) -> None:
    key = gateway.create_key(plan="five")
    answers = in_parallel([partial(post, gateway.port, chat("usage-100-50"), key)] * 20)
    assert Counter(answer.status for answer in answers) == {200: 5, 429: 15}
    refused = next(answer for answer in answers if answer.status == 429)
    told = {name: refused.headers[f"x-ratelimit-{name}-requests"] for name in ("limit", "remaining")}
    assert told == {"limit": "5", "remaining": "0"}, "a refusal says what is left, as an answer does"
    assert refused.code == "RATE_LIMIT_EXCEEDED"
    assert 0 < int(refused.headers["retry-after-ms"]) <= 12_000
    assert 1 <= int(refused.headers["retry-after"]) <= 12


def test_tokens_are_reserved_as_estimated_and_corrected_to_what_was_used(gateway: Gateway) -> None:
    key = gateway.create_key(plan="tokens")
    answer = post(gateway.port, chat("usage-100-50", max_tokens=900), key)
    assert int(answer.headers["x-ratelimit-remaining-tokens"]) < 100
    gateway.drained()
    assert counter(gateway, key, "tokens_per_day") == 150
    assert post(gateway.port, chat("usage-100-50", max_tokens=800), key).status == 200, "the rest was given back"
    too_large = post(gateway.port, chat("usage-100-50", max_tokens=5000), key)
    assert (too_large.status, too_large.headers["x-should-retry"]) == (429, "false")


def test_bug_06_cached_and_reasoning_tokens_have_their_own_rates(gateway: Gateway) -> None:
    key = gateway.create_key()
    answer = post(gateway.port, chat("usage-1000-100-400-60"), key)
    # 600 × 10 + 400 × 1 + 40 × 20 + 60 × 40 dollars per million
    assert answer.headers["x-penstock-cost-usd"] == "0.0096"
    gateway.drained()
    (row,) = gateway.rows(f"key_id = '{key_id(gateway, key)}'")
    assert (row["cost_nanousd"], row["cached_tokens"], row["reasoning_tokens"]) == (9_600_000, 400, 60)


def test_bug_06_an_unpriced_model_is_refused_under_a_budget_else_flagged(gateway: Gateway) -> None:
    refused = post(gateway.port, chat("nobody-knows-its-price"), gateway.create_key(plan="budget"))
    assert (refused.status, refused.code, refused.json["error"]["param"]) == (403, "FORBIDDEN", "model")
    key = gateway.create_key()
    assert post(gateway.port, chat("nobody-knows-its-price"), key).status == 200
    gateway.drained()
    (row,) = gateway.rows(f"key_id = '{key_id(gateway, key)}'")
    assert (row["unpriced"], row["cost_nanousd"]) == (1, 0)


def test_identical_calls_at_once_make_one_upstream_call(gateway: Gateway, upstream: Upstream) -> None:
    key = gateway.create_key()
    body = chat("slow-150", content=f"asked at {time.time()}", temperature=0)
    answers = in_parallel([partial(post, gateway.port, body, key)] * 30, threads=30)
    assert {answer.status for answer in answers} == {200}
    assert upstream.served()["calls"] == 1
    assert Counter(answer.headers["x-penstock-cache"] for answer in answers) == {"miss": 1, "hit": 29}
    streamed = post(gateway.port, {**body, "stream": True}, key)
    assert (streamed.headers["x-penstock-cache"], streamed.done) == ("hit", True)
    assert b'"cached":true' in streamed.body


def test_identical_calls_with_an_answer_too_long_to_keep_do_not_queue(gateway: Gateway, upstream: Upstream) -> None:
    key = gateway.create_key()
    body = chat("slow-1000-300", content=f"asked at {time.time()}", temperature=0)
    began = time.monotonic()
    answers = in_parallel([partial(post, gateway.port, body, key)] * 6, threads=6)
    assert time.monotonic() - began < 4, "two rounds of a second, not six"
    assert {answer.status for answer in answers} == {200}
    assert upstream.served()["calls"] == 6
    began = time.monotonic()
    in_parallel([partial(post, gateway.port, body, key)] * 6, threads=6)
    assert time.monotonic() - began < 1.9, "the next time nobody waits for the first"


def test_bug_07_another_key_does_not_read_the_answer(gateway: Gateway) -> None:
    body = chat("usage-100-50", content="my secret", temperature=0)
    first, second = gateway.create_key("a"), gateway.create_key("b")
    assert post(gateway.port, body, first).headers["x-penstock-cache"] == "miss"
    assert post(gateway.port, body, first).json["cached"] is True
    assert post(gateway.port, body, second).headers["x-penstock-cache"] == "miss"


def test_a_revoked_key_stops_working_within_a_second_on_every_worker(gateway: Gateway) -> None:
    key = gateway.create_key()
    call = partial(post, gateway.port, chat("usage-100-50"), key)
    models = partial(_models, gateway, key)
    assert {answer.status for answer in in_parallel([call] * 20)} == {200}
    assert set(in_parallel([models] * 20)) == {200}
    revoked_at = time.monotonic()
    gateway.services.keys.revoke(key_id(gateway, key))
    assert {answer.status for answer in in_parallel([call] * 20)} == {401}, "model calls: at once"
    while set(in_parallel([models] * 20)) != {401}:
        assert time.monotonic() - revoked_at < 1, "everything else: within a second"


def _models(gateway: Gateway, key: str) -> int:
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=10)
    connection.request("GET", "/v1/models", headers={"Authorization": f"Bearer {key}"})
    status = connection.getresponse().status
    connection.close()
    return status


def test_a_request_id_that_is_used_twice_is_two_rows(gateway: Gateway) -> None:
    key = gateway.create_key()
    for _ in range(2):
        answer = post(gateway.port, chat("usage-100-50"), key, headers={"X-Request-ID": "mine-1"})
        assert answer.headers["x-request-id"] == "mine-1"
    gateway.drained()
    assert len(gateway.rows(f"key_id = '{key_id(gateway, key)}' and request_id = 'mine-1'")) == 2


def test_redis_keys_begin_with_penstock_and_all_but_counted_ones_expire(gateway: Gateway) -> None:
    redis = gateway.services.redis
    keys = [key.decode() for key in redis.execute("KEYS", "*")]
    assert all(key.startswith("penstock:") for key in keys)
    lasting = {key for key in keys if redis.execute("TTL", key) == -1}
    allowed = ("penstock:workers", "penstock:outbox", "penstock:reservations:", "penstock:keys:")
    assert [key for key in lasting if not key.startswith(allowed)] == []

"""A thousand mixed calls over two workers: the ledger says what the vendor says, to the token and the nano-dollar."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial

from tests.support.client import Answer, chat, in_parallel, post
from tests.support.servers import Gateway, wait_for
from tests.support.upstream import Upstream

MODELS = (
    "usage-100-50",
    "usage-30-7",
    "stream-20-2",
    "stream-40-50",
    "status-500",
    "status-429-1",
    "cut-3",
    "cleancut-2",
    "garbage",
    "reset",
    "errorevent-2",
    "usage-9-3",
)
CONFIG = """
providers:
  up: {{kind: openai, base_url: {url}}}
models: {{{models}}}
plans:
  default: {{requests_per_minute: 100000, tokens_per_minute: 100000000, tokens_per_day: 1000000000,
             budget_usd_per_month: 10000, concurrency: 500}}
retry: {{max_attempts: 1, breaker_threshold: 1000}}
reserve: {{worker_timeout_s: 3}}
"""
PRICE_PROMPT, PRICE_COMPLETION = 3, 11  # US dollars per million tokens: 3,000 and 11,000 nano-dollars a token


def calls(port: int, key: str) -> list[Callable[[], Answer]]:
    """1,000 calls, 100 of each of ten kinds."""
    kinds: list[Callable[[int], Callable[[], Answer]]] = [
        lambda i: partial(post, port, chat("usage-100-50"), key),
        lambda i: partial(post, port, chat("usage-30-7", stream=True), key),
        lambda i: partial(post, port, chat("stream-20-2", stream=True), key),
        lambda i: partial(post, port, chat("usage-9-3", content=f"cached {i // 10 % 5}", temperature=0), key),
        lambda i: partial(post, port, chat("stream-40-50", stream=True), key, hang_up_after=3),
        lambda i: partial(post, port, chat("status-500"), key),
        lambda i: partial(post, port, chat("status-429-1"), key),
        lambda i: partial(post, port, chat("cut-3" if i % 2 else "cleancut-2", stream=True), key),
        lambda i: partial(post, port, chat("garbage" if i % 2 else "reset"), key),
        lambda i: partial(post, port, chat("errorevent-2", stream=True), key),
    ]
    return [kinds[i % 10](i) for i in range(1000)]


def test_a_thousand_mixed_calls_add_up(gateway: Callable[..., Gateway], upstream: Upstream) -> None:
    models = ", ".join(f"{name}: {{targets: [{{provider: up}}]}}" for name in MODELS)
    prices = f'up: {{"*": {{prompt: {PRICE_PROMPT}, completion: {PRICE_COMPLETION}}}}}'
    server = gateway(CONFIG.format(url=upstream.url, models=models), prices=prices)
    key = server.create_key("load")

    answers = in_parallel(calls(server.port, key), threads=40)
    server.drained()
    rows = server.rows()
    served = upstream.served()

    assert Counter(answer.status for answer in answers) == {200: 700, 502: 200, 503: 100}
    assert len(rows) == 1000, "one row a call"
    assert len({row["call_id"] for row in rows}) == 1000
    assert Counter(row["status"] for row in rows) == {"ok": 400, "aborted": 100, "error": 500}
    cached = [row for row in rows if row["cache"] == "hit"]
    assert len(cached) == 95, "five questions, asked 100 times"
    assert sum(row["cost_nanousd"] + row["prompt_tokens"] for row in cached) == 0

    whole = [row for row in rows if row["status"] == "ok"]
    assert not any(row["estimated"] for row in whole)
    assert sum(row["prompt_tokens"] for row in whole) == served["prompt_tokens"]
    assert sum(row["completion_tokens"] for row in whole) == served["completion_tokens"]
    cost = PRICE_PROMPT * 1000 * served["prompt_tokens"] + PRICE_COMPLETION * 1000 * served["completion_tokens"]
    assert sum(row["cost_nanousd"] for row in whole) == cost

    hung_up = [row for row in rows if row["status"] == "aborted"]
    assert all(row["estimated"] and 3 <= row["completion_tokens"] < 40 for row in hung_up), "bug 1: not zero, not full"
    cut = [row for row in rows if row["model"] in ("cut-3", "cleancut-2", "errorevent-2")]
    assert {(row["status"], row["completion_tokens"]) for row in cut} == {("error", 3), ("error", 2)}
    broken_off = [answer for answer in answers if answer.status == 200 and b'"code":"MODEL_ERROR"' in answer.body]
    assert len(broken_off) == 200, "bug 2: every cut stream says so"
    assert not any(answer.done for answer in broken_off)

    redis = server.services.redis
    assert redis.execute("KEYS", "penstock:reservations:*") == []
    assert redis.execute("KEYS", "penstock:running:*") == []
    spent, used = (
        int(redis.execute("GET", redis.execute("KEYS", f"penstock:limit:key_*:{name}:*")[0]))
        for name in ("budget_usd_per_month", "tokens_per_day")
    )
    assert spent == sum(row["cost_nanousd"] for row in rows)
    assert used == sum(row["prompt_tokens"] + row["completion_tokens"] for row in rows)
    # The vendor hears of a hang-up later than the ledger does.
    wait_for(lambda: upstream.served()["open_streams"] == 0, timeout_s=2, message="streams are open at the vendor")

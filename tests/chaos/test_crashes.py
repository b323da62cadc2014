"""Whatever dies, every admitted call ends in exactly one row, and what it had reserved comes back."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.client import HTTPException
from pathlib import Path

import psutil
import pytest

from tests.support.client import Answer, chat, in_parallel, post
from tests.support.servers import Gateway, RedisServer, wait_for
from tests.support.upstream import Upstream

CONFIG = """
providers:
  up: {{kind: openai, base_url: {url}}}
models:
  stream-100-50: {{targets: [{{provider: up}}]}}
  usage-10-5: {{targets: [{{provider: up}}]}}
  slow-1500: {{targets: [{{provider: up}}]}}
plans:
  default: {{concurrency: 100, tokens_per_day: 1000000000, budget_usd_per_month: 1000}}
reserve: {{worker_timeout_s: 1.5}}
"""
PRICES = 'up: {"*": {prompt: 1, completion: 2}}'


@pytest.fixture
def server(gateway: Callable[..., Gateway], upstream: Upstream) -> Gateway:
    return gateway(CONFIG.format(url=upstream.url), prices=PRICES)


def streamed(port: int, key: str) -> Answer | None:
    try:
        return post(port, chat("stream-100-50", stream=True), key)
    except (OSError, HTTPException):
        return None  # its worker was killed


def counters_match(server: Gateway) -> None:
    redis = server.services.redis
    rows = server.rows()
    (budget,) = redis.execute("KEYS", "penstock:limit:*:budget_usd_per_month:*")
    assert int(redis.execute("GET", budget)) == sum(row["cost_nanousd"] for row in rows)
    assert redis.execute("KEYS", "penstock:running:*") == []


def test_a_killed_workers_streams_end_in_one_lost_row_each(server: Gateway, upstream: Upstream) -> None:
    key = server.create_key()
    with ThreadPoolExecutor(50) as pool:
        running = [pool.submit(streamed, server.port, key) for _ in range(50)]
        upstream.wait_until("open_streams", 50)
        # The kernel deals the connections out as it likes: the busier worker has at least half of them.
        busiest = max(server.worker_pids(), key=lambda pid: len(psutil.Process(pid).net_connections("tcp")))
        os.kill(busiest, signal.SIGKILL)
        answers = [future.result() for future in running]
    server.drained()
    rows = server.rows()
    whole = sum(1 for answer in answers if answer is not None and answer.done)
    assert len(rows) == len({row["call_id"] for row in rows}) == 50
    assert Counter(row["status"] for row in rows) == Counter(ok=whole, lost=50 - whole)
    assert whole <= 25
    assert all(row["estimated"] and row["prompt_tokens"] for row in rows if row["status"] == "lost")
    counters_match(server)
    assert post(server.port, chat("usage-10-5"), key).status == 200


def test_bug_04_a_terminated_gateway_settles_what_it_was_streaming(server: Gateway, upstream: Upstream) -> None:
    key = server.create_key()
    with ThreadPoolExecutor(20) as pool:
        running = [pool.submit(streamed, server.port, key) for _ in range(20)]
        upstream.wait_until("open_streams", 20)
        os.kill(server.master_pid, signal.SIGTERM)
        answers = [future.result() for future in running]
    server.drained()
    assert all(answer is not None and answer.done for answer in answers), "drained, not cut"
    assert Counter(row["status"] for row in server.rows()) == {"ok": 20}
    counters_match(server)


def test_a_redis_that_is_killed_and_restarted_loses_no_admitted_call(
    tmp_path: Path, upstream: Upstream, redis_server: RedisServer
) -> None:
    own = tmp_path / "redis"
    own.mkdir()
    redis = RedisServer(own)
    redis.start()
    config = CONFIG.format(url=upstream.url)
    try:
        with Gateway(tmp_path / "gateway", config, redis_url=redis.url, prices=PRICES) as server:
            key = server.create_key()
            with ThreadPoolExecutor(10) as pool:
                running = [pool.submit(post, server.port, chat("slow-1500"), key) for _ in range(10)]
                wait_for(lambda: upstream.served()["calls"] == 10)
                assert post(server.port, chat("usage-10-5"), key).status == 200, "settled just before the end"
                os.kill(redis.pid, signal.SIGKILL)
                redis.stop()
                started = time.monotonic()
                refused = in_parallel([partial(post, server.port, chat("usage-10-5"), key)] * 20)
                assert time.monotonic() - started < 1
                answers = [future.result() for future in running]
            assert {(answer.status, answer.code) for answer in refused} == {(503, "NOT_READY")}
            assert not server.ready()
            assert {answer.status for answer in answers} == {200}, "what was admitted is served"
            redis.start()
            wait_for(lambda: not any(Path(server.env["DATA_DIR"], "spool").glob("*")), message="the spool stayed")
            server.drained()
            rows = server.rows()
            assert Counter(row["status"] for row in rows) == {"ok": 11}
            assert len({row["call_id"] for row in rows}) == 11
            counters_match(server)
            assert post(server.port, chat("usage-10-5"), key).status == 200
    finally:
        redis.stop()


def test_bug_05_a_redis_that_hangs_hangs_nobody(tmp_path: Path, upstream: Upstream) -> None:
    own = tmp_path / "redis"
    own.mkdir()
    redis = RedisServer(own)
    redis.start()
    try:
        config = CONFIG.format(url=upstream.url)
        with Gateway(tmp_path / "gateway", config, redis_url=redis.url, prices=PRICES) as server:
            key = server.create_key()
            redis.suspend()
            started = time.monotonic()
            answers = in_parallel([partial(post, server.port, chat("usage-10-5"), key)] * 20, threads=20)
            assert {(answer.status, answer.code) for answer in answers} == {(503, "NOT_READY")}
            assert not server.ready(), "readiness tells the truth"
            assert time.monotonic() - started < 10
            redis.resume()
            # A worker that just saw it hang waits a quarter of a second before it asks again.
            wait_for(lambda: post(server.port, chat("usage-10-5"), key).status == 200)
    finally:
        redis.resume()
        redis.stop()


def test_an_admission_whose_answer_came_too_late_is_undone(tmp_path: Path, upstream: Upstream) -> None:
    own = tmp_path / "redis"
    own.mkdir()
    redis = RedisServer(own)
    redis.start()
    try:
        # Longer than Redis hangs: the workers are not what is lost here.
        config = CONFIG.format(url=upstream.url).replace("worker_timeout_s: 1.5", "worker_timeout_s: 30")
        with Gateway(tmp_path / "gateway", config, redis_url=redis.url, prices=PRICES) as server:
            key = server.create_key()
            call = partial(post, server.port, chat("usage-10-5"), key)
            served = [answer.status for answer in in_parallel([call] * 20, threads=20)]
            redis.suspend()
            assert {answer.status for answer in in_parallel([call] * 20, threads=20)} == {503}
            redis.resume()  # and now it runs what it was asked to, for callers that were refused long ago
            wait_for(lambda: not any(Path(server.env["DATA_DIR"], "spool").glob("*")), message="the spool stayed")
            server.drained()
            assert len(server.rows()) == served.count(200) == 20
            counters_match(server)
            execute = server.services.redis.execute
            states = [execute("HGET", name, "s") for name in execute("KEYS", "penstock:reservation:*")]
            assert b"cancelled" in states, "Redis did run admissions that were refused"
            assert not execute("KEYS", "penstock:running:*"), "and no call holds a slot"
    finally:
        redis.resume()
        redis.stop()


def test_a_ledger_that_is_killed_writes_nothing_twice(server: Gateway) -> None:
    key = server.create_key()
    stop = threading.Event()

    def kill_again_and_again() -> None:
        while not stop.wait(0.4):
            os.kill(server.ledger_pid, signal.SIGKILL)
            server.start_ledger()

    killer = threading.Thread(target=kill_again_and_again)
    killer.start()
    answers = in_parallel([partial(post, server.port, chat("usage-10-5"), key)] * 1500, threads=20)
    stop.set()
    killer.join()
    server.drained()
    rows = server.rows()
    assert {answer.status for answer in answers} == {200}
    assert len(rows) == len({row["call_id"] for row in rows}) == 1500
    assert "database is locked" not in server.log(), "bug 10"
    counters_match(server)

"""The queue while its workers are killed and Redis restarts: every job ends, and is charged once.

`CHAOS_JOBS` and `CHAOS_KILL_EVERY_S` make it longer than a test run should be.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable

from tests.support.client import ask, chat, in_parallel, post
from tests.support.servers import Gateway, RedisServer, wait_for
from tests.support.upstream import Upstream
from tests.support.workers import QueueWorker

JOBS = int(os.environ.get("CHAOS_JOBS", "400"))
KILL_EVERY_S = float(os.environ.get("CHAOS_KILL_EVERY_S", "2"))
KEYS = 20
CONFIG = """
providers:
  up: {{kind: openai, base_url: {url}}}
models:
  usage-10-5: {{targets: [{{provider: up}}]}}
  slow-500: {{targets: [{{provider: up}}]}}
plans:
  default: {{tokens_per_day: 1000000000, budget_usd_per_month: 1000, concurrency: 10}}
queue: {{lease_s: 3, max_jobs: 100000, max_attempts: 20}}
"""
PRICES = 'up: {"*": {prompt: 1, completion: 2}}'


def test_every_job_ends_and_is_charged_once_whatever_dies(
    gateway: Callable[..., Gateway], upstream: Upstream, redis_server: RedisServer
) -> None:
    server = gateway(CONFIG.format(url=upstream.url), prices=PRICES)
    keys = [server.create_key(f"key {n}") for n in range(KEYS)]

    def submit(n: int) -> tuple[str, str]:
        key = keys[n % KEYS]
        body = chat("slow-500" if n % 4 else "usage-10-5", f"job {n}")
        while True:
            answer = post(server.port, body, key, path="/v1/chat/async", headers={"Idempotency-Key": f"job-{n}"})
            if answer.status == 202:
                return key, answer.json["request_id"]
            assert answer.status == 503, answer.body  # while Redis restarts

    workers = [QueueWorker(server, threads=25, name=f"worker-{n}").start() for n in range(2)]
    over = threading.Event()
    killed = Counter[str]()

    def kill_now_and_then() -> None:
        while not over.wait(KILL_EVERY_S):
            victim = workers[killed.total() % 2]
            victim.kill()
            killed["workers"] += 1
            victim.start()

    began = time.monotonic()
    chaos = threading.Thread(target=kill_now_and_then)
    chaos.start()
    try:
        accepted = in_parallel([lambda n=n: submit(n) for n in range(JOBS)], threads=8)  # type: ignore[misc]
        redis_server.stop()
        redis_server.start()
        wait_for(lambda: _left(server) == 0, timeout_s=max(90, JOBS / 10), message="jobs were left")
    finally:
        over.set()
        chaos.join()
        for worker in workers:
            worker.stop()
    took_s = time.monotonic() - began

    results = [ask(server.port, f"/v1/requests/{job_id}", key).json for key, job_id in accepted]
    assert Counter(found["status"] for found in results) == {"completed": JOBS}
    assert all(found["response"]["choices"] for found in results)
    server.drained()
    rows = server.rows()
    assert sorted(row["call_id"] for row in rows) == sorted(job_id for _, job_id in accepted)
    assert {row["status"] for row in rows} == {"ok"}
    redis = server.services.redis
    charged = sum(
        int(redis.execute("GET", key)) for key in redis.execute("KEYS", "penstock:limit:*:budget_usd_per_month:*")
    )
    assert charged == sum(row["cost_nanousd"] for row in rows) > 0
    assert redis.execute("KEYS", "penstock:running:*") == []
    again = Counter(found["attempts"] for found in results)
    print(f"{JOBS} jobs of {KEYS} keys in {took_s:.1f} s, {killed['workers']} workers killed, attempts {dict(again)}")


def _left(server: Gateway) -> int:
    depth = server.services.queue.depth()
    return depth.waiting + depth.running

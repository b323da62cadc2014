"""Redis's master dies under load, and Sentinel makes another: calls go on within seconds, and no figure differs.

Alone it says how long it took: `pytest -s tests/chaos/test_failover.py`; FAILOVERS=5 kills as many masters.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.client import ask, chat, post
from tests.support.sentinels import DOWN_AFTER_MS, Sentinels, installed
from tests.support.servers import Gateway, wait_for
from tests.support.upstream import Upstream
from tests.support.workers import QueueWorker

CONFIG = """
providers:
  up: {{kind: openai, base_url: {url}}}
models:
  usage-10-5: {{targets: [{{provider: up}}]}}
plans:
  default: {{concurrency: 100, tokens_per_day: 1000000000, budget_usd_per_month: 1000}}
reserve: {{worker_timeout_s: 15}}
"""
PRICES = 'up: {"*": {prompt: 1, completion: 2}}'
CALLERS = 6
# Sentinel sees that the master is down, elects a leader, and has a replica promoted.
LONGEST_S = DOWN_AFTER_MS / 1000 + 10

if not installed() and os.environ.get("CI") != "true":
    pytest.skip("Debian's redis-sentinel is not installed", allow_module_level=True)


class Call(NamedTuple):
    started: float
    status: int
    request_id: str


class Load:
    """Callers that call, one call after another, until they are told to stop."""

    def __init__(self, server: Gateway, key: str) -> None:
        self._server = server
        self._key = key
        self._stop = threading.Event()
        self.calls: list[Call] = []
        self._threads = [threading.Thread(target=self._call, args=(number,)) for number in range(CALLERS)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def served_since(self, moment: float) -> list[Call]:
        return [call for call in list(self.calls) if call.started >= moment and call.status == 200]

    def _call(self, caller: int) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            request_id = f"caller-{caller}-{number}"
            started = time.monotonic()
            answer = post(self._server.port, chat("usage-10-5"), self._key, headers={"X-Request-ID": request_id})
            self.calls.append(Call(started, answer.status, request_id))
            if answer.status != 200:
                self._stop.wait(0.05)


def test_a_master_that_dies_under_load_costs_seconds_and_no_figure(tmp_path: Path, upstream: Upstream) -> None:
    (tmp_path / "redis").mkdir()
    took: list[float] = []
    with (
        Sentinels(tmp_path / "redis") as redis,
        Gateway(tmp_path / "gateway", CONFIG.format(url=upstream.url), redis_url=redis.url, prices=PRICES) as server,
    ):
        key = server.create_key()
        with Load(server, key) as load:
            for _ in range(int(os.environ.get("FAILOVERS", "1"))):
                begun = time.monotonic()
                wait_for(lambda begun=begun: len(load.served_since(begun)) > 200, timeout_s=30)
                dead = redis.kill_master()
                killed = time.monotonic()
                # Two workers notice, each by itself: the last of the callers is served again.
                wait_for(
                    lambda killed=killed, dead=dead: redis.master != dead and len(load.served_since(killed)) > 200,
                    timeout_s=LONGEST_S + 20,
                    message="calls never succeeded again",
                )
                refused = [call.started for call in load.calls if call.started >= killed and call.status != 200]
                took.append(max(refused, default=killed) - killed)
                redis.start_server(dead)  # it comes back, and Sentinel makes a replica of it
        wait_for(server.ready)
        spool = Path(server.env["DATA_DIR"], "spool")
        wait_for(lambda: not any(spool.glob("*")), message="the spool stayed")
        server.drained()
        calls, rows = load.calls, server.rows()
        execute = server.services.redis.execute
        (budget,) = execute("KEYS", "penstock:limit:*:budget_usd_per_month:*")
        (tokens,) = execute("KEYS", "penstock:limit:*:tokens_per_day:*")
        counters = int(execute("GET", budget)), int(execute("GET", tokens))
        assert execute("KEYS", "penstock:running:*") == []
        log = server.log()
    served = Counter(call.request_id for call in calls if call.status == 200)
    print(
        f"\nseconds until calls succeeded again: {[round(s, 2) for s in took]}; {len(served)} calls served, "
        f"{Counter(call.status for call in calls)}, {Counter(row['status'] for row in rows)}"
    )
    assert max(took) < LONGEST_S
    assert {call.status for call in calls} <= {200, 503}, "refused in our words"
    assert Counter(row["request_id"] for row in rows if row["status"] == "ok") == served, "one row a call, and no other"
    assert [row["status"] for row in rows if row["status"] != "ok"] == []
    assert counters == (sum(row["cost_nanousd"] for row in rows), sum(_tokens(row) for row in rows))
    assert "Traceback" not in log


def test_a_queued_request_runs_after_a_fail_over_as_it_did_before(tmp_path: Path, upstream: Upstream) -> None:
    (tmp_path / "redis").mkdir()
    with (
        Sentinels(tmp_path / "redis") as redis,
        Gateway(tmp_path / "gateway", CONFIG.format(url=upstream.url), redis_url=redis.url, prices=PRICES) as server,
        QueueWorker(server),
    ):
        key = server.create_key()

        def queued() -> str:
            answer = post(server.port, chat("usage-10-5"), key, path="/v1/chat/async")
            return str(answer.json["request_id"]) if answer.status == 202 else ""

        def state(job: str) -> str:
            answer = ask(server.port, f"/v1/requests/{job}", key)
            return str(answer.json["status"]) if answer.status == 200 else ""

        before = queued()
        wait_for(lambda: state(before) == "completed")
        redis.kill_master()
        after = wait_for(queued, timeout_s=LONGEST_S)
        wait_for(lambda: state(after) == "completed", message="the worker does not find the new master")
        server.drained()
        assert Counter(row["status"] for row in server.rows()) == {"ok": 2}


def _tokens(row: dict[str, int]) -> int:
    return row["prompt_tokens"] + row["completion_tokens"]

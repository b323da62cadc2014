"""Redis is there and refuses, or the disk is full as well: answers go out, and every call is charged once."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py

from app.store.redis.keys import NOTHING, OUTBOX, reservation_key
from app.store.spool_files import encoded
from tests.support.client import ask, chat, post
from tests.support.servers import ADMIN_KEY, Gateway, RedisServer, wait_for
from tests.support.upstream import Upstream

CONFIG = """
providers:
  up: {{kind: openai, base_url: {url}}}
models:
  usage-10-5: {{targets: [{{provider: up}}]}}
  slow-1500: {{targets: [{{provider: up}}]}}
plans:
  default: {{concurrency: 100, budget_usd_per_month: 1000}}
reserve: {{worker_timeout_s: 3}}
"""
PRICES = 'up: {"*": {prompt: 1, completion: 2}}'


@pytest.fixture
def server(tmp_path: Path, own_redis: RedisServer, upstream: Upstream) -> Iterator[Gateway]:
    config = CONFIG.format(url=upstream.url)
    with Gateway(tmp_path / "gateway", config, redis_url=own_redis.url, prices=PRICES) as gateway:
        yield gateway


def call(server: Gateway, key: str, model: str = "usage-10-5") -> int:
    return post(server.port, chat(model), key).status


def in_flight(server: Gateway, key: str, upstream: Upstream, pool: ThreadPoolExecutor) -> Callable[[], Counter[int]]:
    """Ten calls that the vendor has and has not answered. Returns what tells how they ended."""
    before = upstream.served().get("calls", 0)
    running = [pool.submit(call, server, key, "slow-1500") for _ in range(10)]
    wait_for(lambda: upstream.served()["calls"] == before + 10)
    return lambda: Counter(future.result() for future in running)


def held_usd(server: Gateway) -> float:
    metrics = ask(server.port, "/metrics", "").body.decode()
    return float(re.search(r"^llm_settlements_held (.+)$", metrics, re.MULTILINE)[1])  # type: ignore[index]


def charged_as_the_ledger_says(server: Gateway, calls: int) -> None:
    spool = Path(server.env["DATA_DIR"], "spool")
    wait_for(
        lambda: held_usd(server) == 0 and not (spool.is_dir() and any(spool.iterdir())), message="the spool stayed"
    )
    server.drained()
    rows = server.rows()
    assert Counter(row["status"] for row in rows) == {"ok": calls}
    (budget,) = server.services.redis.execute("KEYS", "penstock:limit:*:budget_usd_per_month:*")
    assert int(server.services.redis.execute("GET", budget)) == sum(row["cost_nanousd"] for row in rows)
    assert "Traceback" not in server.log()
    assert "call_lost" not in server.log(), "their workers lived"


REFUSALS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "full": (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
    "replica": (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
    "alone": (("CONFIG", "SET", "min-replicas-to-write", "1"), ("CONFIG", "SET", "min-replicas-to-write", "0")),
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_redis_that_refuses_writes_is_not_ready_and_loses_no_answer(
    server: Gateway, own_redis: RedisServer, upstream: Upstream, refusal: str
) -> None:
    breaks, mends = REFUSALS[refusal]
    key = server.create_key()
    assert call(server, key) == 200
    admin: Any = redis_py.Redis.from_url(own_redis.url)
    with ThreadPoolExecutor(10) as pool:
        ended = in_flight(server, key, upstream, pool)
        admin.execute_command(*breaks)
        assert not server.ready()
        assert ask(server.port, "/ready", key).code == "NOT_READY"
        assert post(server.port, chat("usage-10-5"), key).code == "NOT_READY"
        assert ended() == {200: 10}
        admin.execute_command(*mends)
        admin.close()
    wait_for(server.ready)
    wait_for(lambda: call(server, key) == 200)
    charged_as_the_ledger_says(server, 12)


def test_a_redis_busy_with_a_script_costs_no_answer_and_no_heartbeat(
    server: Gateway, own_redis: RedisServer, upstream: Upstream
) -> None:
    key = server.create_key()
    assert call(server, key) == 200
    admin: Any = redis_py.Redis.from_url(own_redis.url)
    admin.execute_command("CONFIG", "SET", "busy-reply-threshold", "50")

    def hog() -> None:
        hogging: Any = redis_py.Redis.from_url(own_redis.url, socket_timeout=30)
        with pytest.raises(redis_py.RedisError):  # killed
            hogging.execute_command("EVAL", "while true do end", 0)

    thread = threading.Thread(target=hog)
    with ThreadPoolExecutor(10) as pool:
        ended = in_flight(server, key, upstream, pool)
        thread.start()
        try:
            wait_for(lambda: not server.ready())
            refused = post(server.port, chat("usage-10-5"), key)
            assert (refused.status, refused.code) == (503, "NOT_READY")
            assert ended() == {200: 10}
            began = time.monotonic()
            wait_for(lambda: time.monotonic() - began > 1.5, message="longer than the beat's interval")
        finally:
            admin.execute_command("SCRIPT", "KILL")
            thread.join()
    wait_for(lambda: call(server, key) == 200)
    began_s = admin.time()[0]

    def last_beat_s() -> float:
        return float(max(score for _, score in admin.zrange("penstock:workers", 0, -1, withscores=True)))

    wait_for(lambda: last_beat_s() > began_s + 1, message="nobody shows a sign of life any more")
    admin.close()
    charged_as_the_ledger_says(server, 12)


def test_a_full_disk_while_redis_is_away_throws_no_answer_away(
    server: Gateway, own_redis: RedisServer, upstream: Upstream
) -> None:
    key = server.create_key()
    spool = Path(server.env["DATA_DIR"], "spool")
    spool.write_text("a directory cannot be made here: whatever is written fails")
    with ThreadPoolExecutor(10) as pool:
        ended = in_flight(server, key, upstream, pool)
        os.kill(own_redis.pid, signal.SIGKILL)
        own_redis.stop()
        refused = post(server.port, chat("usage-10-5"), key)
        assert (refused.status, refused.code) == (503, "NOT_READY")
        assert ended() == {200: 10}
    assert "spool_not_written" in server.log()
    wait_for(lambda: held_usd(server) >= 10)  # and perhaps the undoing of what was refused
    own_redis.start()
    wait_for(lambda: call(server, key) == 200)
    charged_as_the_ledger_says(server, 11)


def test_what_a_dead_process_left_on_disk_is_adopted_though_nobody_calls(server: Gateway) -> None:
    """The ledger process looks every second, not only when it starts."""
    spool = Path(server.env["DATA_DIR"], "spool")
    for number in range(2):
        row = {"request_id": "r", "call_id": f"call_{number}", "ts": 1.0, "key_id": "k", "model": "m", "status": "ok"}
        keys = [reservation_key(f"call_{number}"), "penstock:reservations:dead", NOTHING, NOTHING, NOTHING, OUTBOX]
        spool.mkdir(exist_ok=True)
        (spool / f"dead-{number}.spool").write_bytes(
            encoded(keys, [f"call_{number}", "settled", json.dumps(row), "", 1, 1])
        )
        wait_for(lambda number=number: len(server.rows()) == number + 1, message="nobody adopted it")
        wait_for(lambda: not any(spool.iterdir()))


def test_operators_see_what_waits_and_what_was_set_aside(server: Gateway) -> None:
    spool = Path(server.env["DATA_DIR"], "spool")
    spool.mkdir()
    (spool / "dead.refused").write_bytes(b"!\n")
    (spool / "later.spool").write_bytes(b'{"keys":[],"args":["b25l"],"v":99}\n')
    server.services.redis.execute("XADD", OUTBOX, "*", "row", "this is no row")
    server.drained()
    figures = ask(server.port, "/metrics", "").body.decode()
    for line in (
        "llm_dead_letters 1.0",
        "llm_spool_files 1.0",
        "llm_spool_bytes 35.0",
        "llm_spool_refused_files 1.0",
        "llm_settlements_dropped_total 0.0",
    ):
        assert line in figures
    checks = ask(server.port, "/health/detailed", ADMIN_KEY).json["checks"]
    told = {name: checks["spool"][name] for name in ("status", "files", "bytes", "refused_files")}
    assert told == {"status": "healthy", "files": 1, "bytes": 35, "refused_files": 1}
    assert checks["ledger"]["dead_letters"] == 1

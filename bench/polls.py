"""What polling costs: 500 clients that each ask once a second, next to as many that ask a bare Flask "hello".

`python -m bench.polls`: CPU milliseconds of the gateway's process tree a poll, medians of the rounds. Jobs of twenty
keys wait, so that a position has to be worked out; one has completed.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil

from bench.measure import cpu_s, load, problem
from bench.scenarios import Scenario, question
from bench.site import started_hello
from tests.support.client import ask, post
from tests.support.servers import Gateway, RedisServer, wait_for
from tests.support.upstream import Upstream
from tests.support.workers import QueueWorker

ROUNDS = int(os.environ.get("ROUNDS", "5"))
CLIENTS, SECONDS = 500, 8
CONFIG = """
providers:
  up: {{kind: openai, base_url: {url}}}
models:
  plain: {{targets: [{{provider: up}}]}}
"""


def submit(port: int, key: str) -> str:
    answer = post(port, question("plain"), key, path="/v1/chat/async")
    return str(answer.json["request_id"])


def polls(name: str, path: str, *, status: str = "200", at: str = "gateway") -> Scenario:
    return Scenario(
        name=name, body=None, path=path, calls=CLIENTS * SECONDS, concurrency=CLIENTS, every_ms=1000, status=status,
        at=at,
    )  # fmt: skip


def main() -> None:
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    costs: dict[str, list[float]] = {}
    redis_costs: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        directory = Path(name)
        upstream = stack.enter_context(Upstream())
        redis = RedisServer(directory)
        redis.start()
        stack.callback(redis.stop)
        options: dict[str, Any] = {"env": {"GATEWAY_ENV": "production", "DEV_API_KEY": ""}}
        gateway = stack.enter_context(
            Gateway(directory / "gateway", CONFIG.format(url=upstream.url), redis_url=redis.url, **options)
        )
        hello, hello_port = stack.enter_context(started_hello(gateway.env))
        key = gateway.create_key("bench")
        done = submit(gateway.port, key)
        with QueueWorker(gateway):
            path = f"/v1/requests/{done}"
            wait_for(lambda: ask(gateway.port, path, key).json["status"] == "completed")
        tag = ask(gateway.port, path, key).headers["etag"]
        waiting = ""
        for n in range(20):
            other = key if n == 0 else gateway.create_key(str(n))
            for _ in range(20):
                waiting = submit(gateway.port, other) if n == 0 else submit(gateway.port, other) and waiting
        scenarios = (
            (polls("bare Flask hello", "/v1/chat/completions", at="hello"), ""),
            (polls("a waiting job", f"/v1/requests/{waiting}"), ""),
            (polls("a completed job", path), ""),
            (polls("unchanged (ETag)", path, status="304"), f"If-None-Match: {tag}\r\n"),
        )
        for number in range(ROUNDS + 1):
            for scenario, headers in scenarios:
                port, tree = (
                    (hello_port, hello)
                    if scenario.at == "hello"
                    else (gateway.port, psutil.Process(gateway.master_pid))
                )
                before, redis_before = cpu_s(tree), cpu_s(psutil.Process(redis.pid))
                wrong = problem(scenario, load(port, scenario, key, headers=headers))
                if wrong:
                    raise SystemExit(f"{scenario.name}: {wrong}")
                if number:  # the first round is a warm-up
                    costs.setdefault(scenario.name, []).append((cpu_s(tree) - before) * 1000 / scenario.calls)
                    spent = (cpu_s(psutil.Process(redis.pid)) - redis_before) * 1000 / scenario.calls
                    redis_costs.setdefault(scenario.name, []).append(spent)
    yardstick = statistics.median(costs["bare Flask hello"])
    for name, found in costs.items():
        median = statistics.median(found)
        spent = statistics.median(redis_costs[name])
        print(f"{name:20} {median:.3f} ms, {median / yardstick:.2f} × hello; Redis {spent:.3f} ms")
    print(json.dumps(costs))


if __name__ == "__main__":
    main()

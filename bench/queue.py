"""Queue benchmark: CPU of submitting, running and polling a job, next to polling a bare Flask "hello".

`python -m bench.queue`, after `bench.run`, whose report gets a section more. 500 clients ask once a second each, while
jobs of twenty keys wait, so that a position has to be worked out. Results are CPU milliseconds, medians of the rounds.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path

import psutil

from bench.environment import run_hello
from bench.measure import cpu_s, find_problem, load
from bench.report import add_section
from bench.scenarios import PRICES, Scenario, config_for, question
from tests.support.client import ask, post
from tests.support.servers import Gateway, RedisServer, wait_for
from tests.support.upstream import Upstream
from tests.support.workers import QueueWorker

ROUNDS = int(os.environ.get("ROUNDS", "5"))
CLIENTS, SECONDS, JOBS, KEYS = 500, 8, 2000, 20
HELLO, SUBMIT, RUN = "bare Flask hello, polled", "submit a job", "run a job"
Costs = dict[str, dict[str, list[float]]]  # by operation and process, a value for each round


class QueueBenchmark:
    """The running processes, and the CPU that jobs and polls have cost."""

    def __init__(self, stack: ExitStack, directory: Path) -> None:
        upstream = stack.enter_context(Upstream())
        self.redis = RedisServer(directory)
        self.redis.start()
        stack.callback(self.redis.stop)
        config = config_for(upstream.url) + "queue: {max_jobs: 100000}\n"
        env = {"GATEWAY_ENV": "production", "DEV_API_KEY": ""}
        self.gateway = stack.enter_context(
            Gateway(directory / "gateway", config, redis_url=self.redis.url, prices=PRICES, env=env)
        )
        self.hello, self.hello_port = stack.enter_context(run_hello(self.gateway.env))
        self.key = self.gateway.create_key("bench")
        self.costs: Costs = {}

    def measure(self, scenario: Scenario, *, keep: bool, headers: str = "") -> None:
        """Makes `scenario`'s calls, and records their CPU if `keep`."""
        at_hello = scenario.at == "hello"
        trees = {"gateway": self.hello if at_hello else psutil.Process(self.gateway.master_pid)}
        trees |= {"redis": psutil.Process(self.redis.pid)}
        before = {name: cpu_s(tree) for name, tree in trees.items()}
        port = self.hello_port if at_hello else self.gateway.port
        wrong = find_problem(scenario, load(port, scenario, self.key, headers=headers))
        if wrong:
            raise SystemExit(f"{scenario.name}: {wrong}")
        if keep:
            self.record(
                scenario.name, {n: (cpu_s(tree) - before[n]) * 1000 / scenario.calls for n, tree in trees.items()}
            )

    def run_all(self, *, keep: bool) -> None:
        """Runs a worker until no job waits, and records its CPU if `keep`."""
        jobs, redis = self.gateway.services.queue.depth().waiting, psutil.Process(self.redis.pid)
        with QueueWorker(self.gateway, threads=50) as worker:
            before = cpu_s(worker.process), cpu_s(redis)
            wait_for(lambda: self.gateway.services.queue.depth()[:2] == (0, 0), timeout_s=120)
            self.gateway.drained(60)
            if keep:
                used = {"worker": cpu_s(worker.process) - before[0], "redis": cpu_s(redis) - before[1]}
                self.record(RUN, {name: spent * 1000 / jobs for name, spent in used.items()})

    def record(self, name: str, figures: dict[str, float]) -> None:
        for whose, value in figures.items():
            self.costs.setdefault(name, {}).setdefault(whose, []).append(value)

    def submit(self, key: str) -> str:
        return str(post(self.gateway.port, question("plain"), key, path="/v1/chat/async").json["request_id"])


def polls(name: str, path: str, *, status: str = "200", at: str = "gateway") -> Scenario:
    return Scenario(
        name=name,
        body=None,
        path=path,
        calls=CLIENTS * SECONDS,
        concurrency=CLIENTS,
        every_ms=1000,
        status=status,
        at=at,
    )


def main() -> None:
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        bench = QueueBenchmark(stack, Path(name))
        done = bench.submit(bench.key)
        submits = Scenario(name=SUBMIT, body=question("plain"), calls=JOBS, path="/v1/chat/async", status="202")
        for number in range(ROUNDS + 1):
            bench.measure(submits, keep=number > 0)  # the first round is a warm-up
            bench.run_all(keep=number > 0)
        path = f"/v1/requests/{done}"
        tag = ask(bench.gateway.port, path, bench.key).headers["etag"]
        others = [bench.gateway.create_key(str(n)) for n in range(KEYS - 1)]
        waiting = [bench.submit(key) for key in [*others, bench.key] for _ in range(20)][-1]
        for number in range(ROUNDS + 1):
            bench.measure(polls(HELLO, "/v1/chat/completions", at="hello"), keep=number > 0)
            bench.measure(polls("poll, the job waits", f"/v1/requests/{waiting}"), keep=number > 0)
            bench.measure(polls("poll, it has completed", path), keep=number > 0)
            same = polls("poll, unchanged (ETag)", path, status="304")
            bench.measure(same, keep=number > 0, headers=f"If-None-Match: {tag}\r\n")
    add_section("The queue", rows(bench.costs))


def rows(costs: Costs) -> list[str]:
    yardstick = statistics.median(costs[HELLO]["gateway"])
    lines = [
        f"CPU, ms each. {CLIENTS} clients poll once a second; the hello is polled at that pace, too.",
        "",
        "| what | gateway | × hello | worker | redis |",
        "|---|---|---|---|---|",
    ]
    for name, found in costs.items():
        medians = {whose: statistics.median(values) for whose, values in found.items()}
        cells = [f"{medians[whose]:.3f}" if whose in medians else "–" for whose in ("gateway", "worker", "redis")]
        ratio = f"{medians['gateway'] / yardstick:.2f}" if name.startswith("poll") else "–"
        lines.append(f"| {name} | {cells[0]} | {ratio} | {cells[1]} | {cells[2]} |")
    return lines


if __name__ == "__main__":
    main()

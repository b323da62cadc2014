"""`make bench`: CPU a call of the gateway, all features on, next to a bare Flask "hello" in the same run.

CPU, not time: steady on a noisy machine. Rounds alternate between the scenarios; the report has medians. Nothing is
believed before statuses and chunks are checked.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from tests.support.servers import ROOT, Gateway, RedisServer, free_port, wait_for
from tests.support.upstream import Upstream

ROUNDS = 3
CONFIG = """
providers:
  up: {{kind: openai, base_url: {url}, api_key: sk-bench}}
models:
  plain: {{targets: [{{provider: up}}]}}
  stream-50-20: {{targets: [{{provider: up}}]}}
plans:
  default:
    {{requests_per_minute: 100000000, tokens_per_minute: 100000000000, requests_per_day: 1000000000,
     tokens_per_day: 1000000000000, budget_usd_per_month: 900000, concurrency: 100000}}
"""
PRICES = 'up: {"*": {prompt: 0.4, completion: 1.6, cached: 0.1}}'


@dataclass(frozen=True)
class Scenario:
    name: str
    body: dict[str, Any]
    calls: int
    concurrency: int
    status: str = "200"
    key: str = ""  # by default a valid one
    chunks: int = 0  # content chunks expected for each call
    hello: bool = False


def question(model: str, **more: Any) -> dict[str, Any]:
    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "What is a penstock?"},
    ]
    return {"model": model, "messages": messages, **more}


SCENARIOS = (
    Scenario("bare Flask hello", question("plain"), 6000, 32, hello=True),
    Scenario("completion", question("plain"), 6000, 32),
    Scenario("cached completion", question("plain", temperature=0), 6000, 32),
    Scenario("401", question("plain"), 6000, 32, status="401", key="pstk_wrong"),
    Scenario("stream of 50 chunks, 200 at once", question("stream-50-20", stream=True), 600, 200, chunks=50),
)


def main() -> None:
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory() as name, Upstream() as upstream:
        directory = Path(name)
        redis = RedisServer(directory)
        redis.start()
        try:
            config = CONFIG.format(url=upstream.url)
            production = {"GATEWAY_ENV": "production", "DEV_API_KEY": ""}
            with Gateway(directory / "gateway", config, redis_url=redis.url, prices=PRICES, env=production) as gateway:
                key = gateway.create_key("bench")
                scenarios = [replace(scenario, key=scenario.key or key) for scenario in SCENARIOS]
                hello, hello_port = start_hello(gateway.env)
                try:
                    report(measure(scenarios, gateway, hello_port, psutil.Process(hello.pid), redis, upstream))
                finally:
                    hello.terminate()
                    hello.wait(10)
        finally:
            redis.stop()


def start_hello(env: dict[str, str]) -> tuple[subprocess.Popen[bytes], int]:
    port = free_port()
    command = [f"{Path(sys.executable).parent}/gunicorn", "-c", "gunicorn.conf.py", "-k", "gevent", "bench.hello:app"]
    own = {**env, "PORT": str(port), "DATA_DIR": env["DATA_DIR"] + "-hello"}
    process = subprocess.Popen(command, cwd=ROOT, env=own, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    scenario = Scenario("warm-up", question("plain"), 1, 1)
    wait_for(lambda: _answers(port, scenario), message="the hello did not start")
    return process, port


def _answers(port: int, scenario: Scenario) -> bool:
    try:
        return load(port, scenario)["statuses"] == {"200": 1}
    except subprocess.CalledProcessError:
        return False


def load(port: int, scenario: Scenario) -> dict[str, Any]:
    body = json.dumps(scenario.body).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {scenario.key}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    command = [sys.executable, "-m", "bench.load", str(port), str(scenario.calls), str(scenario.concurrency)]
    result = subprocess.run(command, input=head.encode() + body, capture_output=True, cwd=ROOT, check=True, timeout=300)
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def measure(
    scenarios: list[Scenario],
    gateway: Gateway,
    hello_port: int,
    hello: psutil.Process,
    redis: RedisServer,
    upstream: Upstream,
) -> dict[str, dict[str, list[float]]]:
    meters: dict[str, Callable[[], float]] = {
        "gateway": lambda: cpu_s(psutil.Process(gateway.master_pid)),
        "redis": lambda: cpu_s(psutil.Process(redis.pid)),
        "ledger": lambda: cpu_s(psutil.Process(gateway.ledger_pid)),
        "upstream": lambda: cpu_s(psutil.Process(upstream.pid)),
    }
    figures: dict[str, dict[str, list[float]]] = {scenario.name: {} for scenario in scenarios}
    for round_number in range(ROUNDS + 1):
        for scenario in scenarios:
            port = hello_port if scenario.hello else gateway.port
            now = {"gateway": lambda: cpu_s(hello)} if scenario.hello else meters
            before = {name: meter() for name, meter in now.items()}
            result = load(port, scenario)
            if not scenario.hello:
                gateway.drained()
            check(scenario, result)
            if round_number == 0:
                continue  # a warm-up
            row = figures[scenario.name]
            for name, meter in now.items():
                row.setdefault(name, []).append((meter() - before[name]) * 1000 / scenario.calls)
            for name in ("per_second", "p50_ms", "p99_ms"):
                row.setdefault(name, []).append(result[name])
            row.setdefault("generator", []).append(result["cpu_s"] * 1000 / scenario.calls)
    return figures


def check(scenario: Scenario, result: dict[str, Any]) -> None:
    expected = {scenario.status: scenario.calls}
    if result["statuses"] != expected:
        raise SystemExit(f"{scenario.name}: expected {expected}, got {result['statuses']}")
    if scenario.chunks and (result["chunks"], result["done"]) != (scenario.chunks * scenario.calls, scenario.calls):
        raise SystemExit(f"{scenario.name}: {result['chunks']} chunks, {result['done']} ends")


def cpu_s(process: psutil.Process) -> float:
    """User and system time of a process and its children, the live and the dead."""
    total = 0.0
    for each in [process, *process.children(recursive=True)]:
        times = each.cpu_times()
        total += times.user + times.system
    return total


def report(figures: dict[str, dict[str, list[float]]]) -> None:
    hello = statistics.median(figures["bare Flask hello"]["gateway"])
    lines = [
        "# Benchmark",
        "",
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, Python {platform.python_version()}, {psutil.cpu_count()} cores "
        f"shared by everything, 2 workers, medians of {ROUNDS} alternating rounds. Every feature on: key, limits",
        "for requests, tokens, budget and concurrency, prices, cache look-up, ledger, metrics, logs. CPU in ms a call,",
        "of whole process trees.",
        "",
        "| scenario | gateway CPU | × hello | redis | ledger | vendor | generator | calls/s | p50 ms | p99 ms |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in figures.items():
        others = ("redis", "ledger", "upstream", "generator")
        cells = [f"{statistics.median(row[meter]):.3f}" if meter in row else "–" for meter in others]
        cpu = statistics.median(row["gateway"])
        speed = [f"{statistics.median(row[key]):.1f}" for key in ("per_second", "p50_ms", "p99_ms")]
        lines.append(f"| {name} | {cpu:.3f} | {cpu / hello:.2f} | {' | '.join(cells)} | {' | '.join(speed)} |")
    text = "\n".join(lines) + "\n"
    (ROOT / "bench" / "report.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()

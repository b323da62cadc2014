"""`make bench`: what a call costs the gateway, all features on, next to a bare Flask "hello" in the same run.

CPU, not time: steady on a noisy machine. Rounds alternate between the scenarios; the report has medians. Nothing is
believed before statuses and chunks are checked.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from bench.peers import PEERS, Peer, running
from bench.report import write
from bench.scenarios import CONFIG, LIMITED, PRICES, SCENARIOS, VALID, Scenario, question
from tests.support.edge import Edge
from tests.support.servers import ROOT, Gateway, RedisServer, free_port, wait_for
from tests.support.upstream import Upstream

ROUNDS = int(os.environ.get("ROUNDS", "5"))
Figures = dict[str, dict[str, list[float]]]


class Site:
    """Everything that runs, and what it has used so far."""

    def __init__(self, stack: ExitStack, directory: Path) -> None:
        self.upstream = stack.enter_context(Upstream())
        self.redis = RedisServer(directory)
        self.redis.start()
        stack.callback(self.redis.stop)
        started = time.perf_counter()
        self.gateway = stack.enter_context(
            Gateway(
                directory / "gateway", CONFIG.format(url=self.upstream.url), redis_url=self.redis.url, prices=PRICES,
                env={"GATEWAY_ENV": "production", "DEV_API_KEY": ""},
            )
        )  # fmt: skip
        self.start_s = time.perf_counter() - started
        self.keys = {VALID: self.gateway.create_key("bench"), LIMITED: self.gateway.create_key("one", plan="one")}
        self.edge = stack.enter_context(Edge(directory / "edge", self.gateway.port, ACCESS_LOG=f"{directory}/log json"))
        self.hello, self.hello_port = stack.enter_context(started_hello(self.gateway.env))
        self._trees = {
            "gateway": self.gateway.master_pid, "redis": self.redis.pid, "ledger": self.gateway.ledger_pid,
            "nginx": self.edge.pid, "vendor": self.upstream.pid,
        }  # fmt: skip

    def port(self, scenario: Scenario) -> int:
        return {"hello": self.hello_port, "gateway": self.gateway.port, "edge": self.edge.tls_port}[scenario.at]

    def used(self, scenario: Scenario) -> dict[str, float]:
        """CPU seconds so far, by process tree."""
        if scenario.at == "hello":
            return {"gateway": cpu_s(self.hello)}
        return {name: cpu_s(psutil.Process(pid)) for name, pid in self._trees.items()}

    def memory_mb(self) -> float:
        master = psutil.Process(self.gateway.master_pid)
        return sum(each.memory_full_info().pss for each in [master, *master.children(recursive=True)]) / 1e6


@contextmanager
def started_hello(env: dict[str, str]) -> Iterator[tuple[psutil.Process, int]]:
    """The yardstick, under gunicorn's own gevent worker, not ours."""
    port = free_port()
    command = [f"{Path(sys.executable).parent}/gunicorn", "-c", "gunicorn.conf.py", "-k", "gevent", "bench.hello:app"]
    own = {**env, "PORT": str(port), "DATA_DIR": env["DATA_DIR"] + "-hello"}
    process = subprocess.Popen(command, cwd=ROOT, env=own, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    warm_up = Scenario(name="warm-up", body=question("plain"), calls=1, concurrency=1)
    try:
        wait_for(lambda: answers(port, warm_up), message="the hello did not start")
        yield psutil.Process(process.pid), port
    finally:
        process.terminate()
        process.wait(20)


def answers(port: int, scenario: Scenario) -> bool:
    try:
        return bool(load(port, scenario, "")["statuses"] == {"200": 1})
    except subprocess.CalledProcessError:
        return False


def load(port: int, scenario: Scenario, key: str, *, tls: bool = False, headers: str = "") -> dict[str, Any]:
    """One run of the load generator. Its results, see `bench.load`."""
    body = json.dumps(scenario.body).encode()
    head = (
        f"POST {scenario.path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {key}\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
    )
    command = [
        sys.executable, "-m", "bench.load", str(port), str(scenario.calls), str(scenario.concurrency),
        str(scenario.chunk_ms), *(["tls"] if tls else []),
    ]  # fmt: skip
    result = subprocess.run(command, input=head.encode() + body, capture_output=True, cwd=ROOT, check=True, timeout=400)
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def problem(scenario: Scenario, result: dict[str, Any]) -> str:
    """What makes `result` unfit to be believed; "" when nothing does."""
    if result["statuses"] != {scenario.status: scenario.calls}:
        return f"expected {scenario.calls} × {scenario.status}, got {result['statuses']}"
    if scenario.is_stream and (result["chunks"], result["done"]) != (scenario.chunks * scenario.calls, scenario.calls):
        lost = scenario.chunks * scenario.calls - result["chunks"]
        return f"{lost} chunks lost, {result['done']} of {scenario.calls} streams ended"
    return ""


def cpu_s(process: psutil.Process) -> float:
    """User and system time of a process and its children."""
    total = 0.0
    for each in [process, *process.children(recursive=True)]:
        times = each.cpu_times()
        total += times.user + times.system
    return total


def measure(site: Site, figures: Figures, scenario: Scenario, *, keep: bool) -> None:
    direct = load(site.upstream.port, scenario, "") if scenario.direct else None
    before = site.used(scenario)
    result = load(site.port(scenario), scenario, site.keys.get(scenario.key, "pstk_wrong"), tls=scenario.at == "edge")
    if scenario.at != "hello":
        site.gateway.drained(120)
    wrong = problem(scenario, result)
    if wrong:
        raise SystemExit(f"{scenario.name}: {wrong}")
    if keep:
        note(figures, scenario, {
            **{name: (now - before[name]) * 1000 / scenario.calls for name, now in site.used(scenario).items()},
            "generator": result["cpu_s"] * 1000 / scenario.calls, **timings(result, direct),
        })  # fmt: skip


def timings(result: dict[str, Any], direct: dict[str, Any] | None) -> dict[str, float]:
    """As measured, and what was added to the same load on the vendor itself."""
    names = [name for name in result if name.endswith("_ms") or name == "per_second"]
    found = {name: float(result[name]) for name in names}
    if direct is not None:
        found |= {f"added_{name}": result[name] - direct[name] for name in names if name != "per_second"}
    return found


def note(figures: Figures, scenario: Scenario, row: dict[str, float]) -> None:
    for name, value in row.items():
        figures.setdefault(scenario.name, {}).setdefault(name, []).append(value)


def measure_peer(peer: Peer, upstream: Upstream, directory: Path) -> Figures | str:
    """Its figures in the same scenarios, with fewer calls; or why there are none."""
    figures: Figures = {}
    try:
        with running(peer, upstream.url, directory) as (process, port):
            for number in range(max(ROUNDS // 2, 1) + 1):
                for known in SCENARIOS:
                    if known.name not in peer.scenarios:
                        continue
                    scenario = replace(known, calls=peer.scenarios[known.name], path=peer.path)
                    before = cpu_s(process)
                    result = load(port, scenario, "sk-bench", headers=peer.headers(upstream.url))
                    wrong = problem(scenario, result)
                    if number or wrong:
                        note(figures, scenario, {
                            "gateway": (cpu_s(process) - before) * 1000 / scenario.calls, **timings(result, None),
                        })  # fmt: skip
                    if wrong:
                        figures[scenario.name]["problem: " + wrong] = []
    except (OSError, subprocess.SubprocessError, AssertionError, psutil.Error) as exc:
        return f"did not run: {str(exc)[:200]}"
    return figures


def main() -> None:
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    figures: Figures = {}
    peers: dict[str, Figures | str] = {}
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        site = Site(stack, Path(name))
        idle_mb = site.memory_mb()
        for number in range(ROUNDS + 1):
            for scenario in SCENARIOS:
                measure(site, figures, scenario, keep=number > 0)  # the first round is a warm-up
            print(f"round {number} of {ROUNDS}", file=sys.stderr)
        memory = {"idle": idle_mb, "after all rounds": site.memory_mb()}
        for peer in PEERS if "peers" in sys.argv[1:] else ():
            print(peer.name, file=sys.stderr)
            peers[peer.name] = measure_peer(peer, site.upstream, Path(name))
        write(figures, peers, start_s=site.start_s, memory_mb=memory, rounds=ROUNDS)


if __name__ == "__main__":
    main()
